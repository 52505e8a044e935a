# What the machine must have, the programs, the bridge and the seal.

# A command or a file, and the Debian package that brings it.
needs=(
	containerd:containerd runc:runc /usr/lib/cni/bridge:containernetworking-plugins buildah:buildah
	mmdebstrap:mmdebstrap nft:nftables iptables:iptables conntrack:conntrack ip:iproute2 openssl:openssl curl:curl
	git:git psql:postgresql-client "/usr/lib/postgresql/*/bin/postgres:postgresql" cc:gcc make:make flock:util-linux
	"/usr/lib/*/libc.a:libc6-dev" ssh:openssh-client stunnel:stunnel4
)

need_machine() {
	command -v go >/dev/null || fail "Go is missing: install Go 1.26 or newer (https://go.dev/dl)"
	need_packages "${needs[@]}"
}

# need_packages WHAT:PACKAGE…
need_packages() {
	local need what missing=()
	for need in "$@"; do
		what=${need%:*}
		case $what in
		/*) compgen -G "$what" >/dev/null || missing+=("${need##*:}") ;;
		*) command -v "$what" >/dev/null || missing+=("${need##*:}") ;;
		esac
	done
	[ ${#missing[@]} = 0 ] && return
	command -v apt-get >/dev/null || fail "missing, and this is no Debian to install them on: ${missing[*]}"
	step "installing ${missing[*]}"
	mkdir -p "$state/log"
	(
		export DEBIAN_FRONTEND=noninteractive
		apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"
	) >"$state/log/apt.log" 2>&1 || fail "cannot install ${missing[*]}; see $state/log/apt.log"
}

# All programs under one folder, whatever the cache calls theirs.
programs() {
	local set
	mkdir -p "$state/bin" "$state/log"
	touch "$state/berth-cluster"
	chmod 755 "$state"
	for set in etcd kubernetes agent-sandbox coredns gitea helm; do link_programs "$(go_set "$set")"; done
	# Go names a program after its folder.
	mv -f "$state/bin/server" "$state/bin/etcd"
	step "programs are built"
}

link_programs() {
	local program
	for program in "$1"/bin/*; do ln -sf "$program" "$state/bin/"; done
}

go_set() {
	compgen -G "$cache/go/$1-*/done" >/dev/null || step "building $1: minutes, once"
	"$here/build" "$1" 2>"$state/log/build-$1.log" || fail "cannot build $1; see $state/log/build-$1.log"
}

# module_folder SET MODULE: where the files of a module are, downloaded if need be.
module_folder() {
	(cd "$here/modules/$1" && go mod download -json "$2") | sed -n 's/^\s*"Dir": "\(.*\)",$/\1/p'
}

kubectl() { "$state/bin/kubectl" --kubeconfig "$state/kubeconfig" "$@"; }

# Values that kubelet and we change; `down` puts them back.
sysctls=(net.ipv4.ip_forward net.bridge.bridge-nf-call-iptables vm.overcommit_memory kernel.panic kernel.panic_on_oops)

network() {
	[ -f "$state/sysctl" ] || sysctl --ignore "${sysctls[@]}" >"$state/sysctl" 2>/dev/null || true
	# The answer of a pod behind a Service goes over the bridge; without the second it would not find its way back.
	sysctl -q -w net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1
	if ! ip link show "$bridge" >/dev/null 2>&1; then
		ip link add "$bridge" type bridge
		ip addr add "$node/16" dev "$bridge"
		ip link set "$bridge" up
	fi
	# The first one makes /run/netns a mount of its own, over what is mounted there by then: pods that live already could
	# never be taken down. Tests make namespaces beside a running cluster.
	ip netns add berth-first && ip netns delete berth-first
	nft list table inet berth >/dev/null 2>&1 || nft -f - <<-END
		table inet berth {
			counter beyond {}
			chain forward { type filter hook forward priority 10; }
			chain postrouting {
				type nat hook postrouting priority srcnat;
				ip saddr $pods ip daddr != { $pods, 224.0.0.0/4 } masquerade
			}
		}
	END
	step "network"
}

# After kube-proxy's own chains, which refuse what goes to a Service without endpoints; that is no leak.
seal() {
	nft -f - <<-END
		add chain inet berth dropped
		flush chain inet berth dropped
		add set inet berth sent { type ipv4_addr . ipv4_addr; flags dynamic; size 1024; }
		flush chain inet berth forward
		add rule inet berth forward iifname "$bridge" oifname != "$bridge" jump dropped
		add rule inet berth dropped ip daddr $services drop
		add rule inet berth dropped counter name beyond
		add rule inet berth dropped ip saddr 0.0.0.0/0 update @sent { ip saddr . ip daddr }
		add rule inet berth dropped drop
	END
	touch "$state/sealed"
	write_corefile
	step "sealed: what pods send beyond the cluster is dropped and counted"
}

unseal() {
	nft flush chain inet berth forward
	rm -f "$state/sealed"
	write_corefile
	step "unsealed"
}

sealed_state() {
	if [ -f "$state/sealed" ]; then
		echo "sealed: $(nft list counter inet berth beyond | sed -n 's/^\s*\(packets.*\)/\1/p') sent beyond the cluster and dropped"
		nft list set inet berth sent | grep -o '[0-9.]\+ \. [0-9.]\+' | sed 's/ \. / to /; s/^/  /' | head -20 || true
	else
		echo "not sealed: pods reach what this machine reaches"
	fi
}
