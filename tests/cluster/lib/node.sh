# The node: containerd, kubelet, kube-proxy.

socket=$state/containerd/containerd.sock

containers() { ctr --address "$socket" --namespace k8s.io "$@"; }

start_containerd() {
	mkdir -p "$state/containerd" "$state/cni"
	write_containerd_config
	write_cni_config
	launch containerd env PATH="$state/bin:$PATH" containerd --config "$state/containerd/config.toml"
	await containerd 30 containers version
	pause_image
}

# restrict_oom_score_adj: a machine without CAP_SYS_RESOURCE cannot lower a score, and no pod would start.
write_containerd_config() {
	cat >"$state/containerd/config.toml" <<-END
		version = 2
		root = "$state/containerd/root"
		state = "$state/containerd/state"
		disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
		  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp"]
		[grpc]
		  address = "$socket"
		[plugins."io.containerd.internal.v1.opt"]
		  path = "$state/containerd/opt"
		[plugins."io.containerd.grpc.v1.cri"]
		  sandbox_image = "localhost/berth-pause:dev"
		  restrict_oom_score_adj = true
		  stream_server_address = "127.0.0.1"
		  [plugins."io.containerd.grpc.v1.cri".cni]
		    bin_dir = "/usr/lib/cni"
		    conf_dir = "$state/cni"
		  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
		    runtime_type = "io.containerd.runc.v2"
		    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
		      SystemdCgroup = false
		  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runsc]
		    runtime_type = "io.containerd.runsc.v1"
		    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runsc.options]
		      TypeUrl = "io.containerd.runsc.v1.options"
		      ConfigPath = "$state/containerd/runsc.toml"
	END
	# net-raw: legacy iptables needs it. host-uds: the sidecar's socket, in a volume, is reached by another container.
	cat >"$state/containerd/runsc.toml" <<-END
		[runsc_config]
		  platform = "systrap"
		  ignore-cgroups = "true"
		  net-raw = "true"
		  host-uds = "all"
	END
}

# No ipMasq: one nft rule for all pods does it, and nothing is left when a pod goes.
write_cni_config() {
	cat >"$state/cni/10-berth.conflist" <<-END
		{"cniVersion": "0.4.0", "name": "berth-cluster", "plugins": [
		  {"type": "bridge", "bridge": "$bridge", "isGateway": true, "hairpinMode": true,
		   "ipam": {"type": "host-local", "dataDir": "$state/cni/addresses", "routes": [{"dst": "0.0.0.0/0"}],
		            "ranges": [[{"subnet": "$pods", "rangeStart": "10.99.1.0"}]]}}]}
	END
}

start_kubelet() {
	mkdir -p "$state/kubelet"
	# Pods that ask for the node's resolver get the cluster's; the machine's own may be on its loopback.
	echo "nameserver $node" >"$state/kubelet/resolv.conf"
	write_kubelet_config
	launch kubelet "$state/bin/kubelet" --config="$state/kubelet/config.yaml" \
		--kubeconfig="$pki/kubelet.kubeconfig" --root-dir="$state/kubelet" --cert-dir="$pki/unused" \
		--hostname-override=node1 --node-ip="$node"
	await kubelet 60 curl -fsS http://127.0.0.1:10248/healthz
}

write_kubelet_config() {
	cat >"$state/kubelet/config.yaml" <<-END
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		address: $node
		authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
		authorization: {mode: Webhook}
		tlsCertFile: $pki/kubelet-server.crt
		tlsPrivateKeyFile: $pki/kubelet-server.key
		clusterDNS: [$dns]
		clusterDomain: cluster.local
		resolvConf: $state/kubelet/resolv.conf
		containerRuntimeEndpoint: unix://$socket
		cgroupDriver: cgroupfs
		failCgroupV1: false
		failSwapOn: false
		makeIPTablesUtilChains: false
		oomScoreAdj: 0
		maxPods: 500
		serializeImagePulls: false
		imageGCHighThresholdPercent: 100
		evictionHard: {memory.available: 0%, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%}
		podLogsDir: $state/kubelet/pod-logs
		volumePluginDir: $state/kubelet/volume-plugins
	END
}

start_kube_proxy() {
	launch kube-proxy "$state/bin/kube-proxy" --kubeconfig="$pki/kube-proxy.kubeconfig" --hostname-override=node1 \
		--proxy-mode=nftables --cluster-cidr="$pods" --healthz-bind-address=127.0.0.1:10256 \
		--metrics-bind-address=127.0.0.1:10249 --oom-score-adj=0 \
		--conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0s --conntrack-tcp-timeout-close-wait=0s
	await kube-proxy 60 nft list table ip kube-proxy
}

add_gvisor() {
	link_programs "$(go_set gvisor)"
	# Server-side: two tests may add it at once.
	kubectl apply --server-side -f "$here/manifests/gvisor.yaml" >/dev/null
	step "RuntimeClass gvisor"
}
