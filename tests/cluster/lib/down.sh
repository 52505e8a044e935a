# The end: pods first while the kubelet can still take them down, the API server before its store, then what is left.

down() {
	[ -f "$state/berth-cluster" ] || { step "no cluster in $state"; return; }
	delete_pods
	halt kubelet
	end_containers
	halt containerd
	halt kube-proxy
	"$state/bin/kube-proxy" --cleanup --proxy-mode=nftables >>"$state/log/kube-proxy.log" 2>&1 || true
	step "node is down"
	local name
	for name in coredns forge-tls gitea postgres kube-apiserver etcd; do halt "$name"; done
	step "control plane is down"
	remove_mounts
	remove_cgroups
	remove_network
	restore_sysctls
	remove_files
	step "nothing is left"
}

# Whatever would make new pods ends before the pods do.
delete_pods() {
	local name
	for name in "${applier_processes[@]}" agent-sandbox kube-controller-manager kube-scheduler; do halt "$name"; done
	alive kubelet && alive kube-apiserver || return 0
	kubectl delete pods --all --all-namespaces --grace-period=1 --timeout=60s >/dev/null 2>&1 || true
	step "pods are gone"
}

# What the kubelet did not take down, because it or the API server was not there.
end_containers() {
	alive containerd || return 0
	local id
	for id in $(containers tasks ls -q); do containers tasks delete --force "$id" >/dev/null 2>&1 || true; done
	for id in $(containers containers ls -q); do containers containers delete "$id" >/dev/null 2>&1 || true; done
	end_shims
}

# A shim has no pid file of ours; it carries the address of our containerd.
end_shims() {
	local folder
	for folder in /proc/[0-9]*; do
		if tr '\0' '\n' <"$folder/cmdline" 2>/dev/null | grep -qxF -- "$socket"; then
			[[ $(readlink "$folder/exe") == */containerd-shim* ]] && kill -s KILL "${folder#/proc/}" 2>/dev/null
		fi
	done
	return 0
}

remove_mounts() {
	local mount
	cut -d' ' -f5 /proc/self/mountinfo | grep -F "$state/" | sort -r | while read -r mount; do
		umount -l "$mount" 2>/dev/null || true
	done
}

remove_cgroups() {
	local folder
	for folder in /sys/fs/cgroup/*/kubepods /sys/fs/cgroup/kubepods; do
		[ -d "$folder" ] && find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null
	done
	return 0
}

# The CNI library writes down for each pod which network namespace it had.
remove_network() {
	local result space
	for result in /var/lib/cni/results/berth-cluster-*; do
		[ -f "$result" ] || continue
		for space in $(grep -o '/netns/cni-[0-9a-f-]*' "$result"); do ip netns delete "${space#/netns/}" 2>/dev/null || true; done
		rm -f "$result"
	done
	ip link delete "$bridge" 2>/dev/null || true
	nft delete table inet berth 2>/dev/null || true
}

restore_sysctls() { sysctl -q -p "$state/sysctl" 2>/dev/null || true; }

# kubelet, containerd and the CNI library have a few folders that no flag moves: what is empty of them goes.
remove_files() {
	find /var/log/containers -lname "$state/*" -delete 2>/dev/null || true
	[ -n "$(ls -A /run/netns 2>/dev/null)" ] || umount /run/netns 2>/dev/null || true
	find /var/log/containers /var/lib/cni /var/lib/kubelet /run/containerd /run/netns -depth \
		\( -type d -empty -o -type s \) -delete 2>/dev/null || true
	rm -rf "${state:?}"
}
