# The control plane.

start_etcd() {
	launch etcd "$state/bin/etcd" --name node1 --data-dir "$state/etcd" --unsafe-no-fsync --log-level warn \
		--listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
		--listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
		--initial-cluster node1=http://127.0.0.1:2380
	await etcd 30 curl -fsS http://127.0.0.1:2379/health
}

# Every request is in the audit log: the benchmark counts there what Berth asks and writes.
start_kube_apiserver() {
	mkdir -p "$state/audit"
	cat >"$state/audit/policy.yaml" <<-END
		apiVersion: audit.k8s.io/v1
		kind: Policy
		omitStages: [RequestReceived]
		rules: [{level: Metadata}]
	END
	launch kube-apiserver "$state/bin/kube-apiserver" \
		--etcd-servers=http://127.0.0.1:2379 --advertise-address="$node" --bind-address="$node" --secure-port=6443 \
		--service-cluster-ip-range="$services" --authorization-mode=Node,RBAC \
		--enable-admission-plugins=NodeRestriction --allow-privileged --client-ca-file="$pki/ca.crt" \
		--tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" --cert-dir="$pki/unused" \
		--service-account-issuer=https://kubernetes.default.svc.cluster.local \
		--service-account-key-file="$pki/accounts.pub" --service-account-signing-key-file="$pki/accounts.key" \
		--kubelet-client-certificate="$pki/apiserver-kubelet.crt" --kubelet-client-key="$pki/apiserver-kubelet.key" \
		--kubelet-certificate-authority="$pki/ca.crt" --kubelet-preferred-address-types=InternalIP \
		--audit-policy-file="$state/audit/policy.yaml" --audit-log-path="$state/audit/audit.log" \
		--audit-log-maxsize=500 --audit-log-maxbackup=2
	await kube-apiserver 60 kubectl get --raw /readyz
}

start_kube_controller_manager() {
	launch kube-controller-manager "$state/bin/kube-controller-manager" \
		--kubeconfig="$pki/kube-controller-manager.kubeconfig" --leader-elect=false --bind-address=127.0.0.1 \
		--use-service-account-credentials --root-ca-file="$pki/ca.crt" \
		--service-account-private-key-file="$pki/accounts.key" --cert-dir="$pki/unused" \
		--cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" \
		--service-cluster-ip-range="$services" --kube-api-qps=300 --kube-api-burst=600
}

start_kube_scheduler() {
	launch kube-scheduler "$state/bin/kube-scheduler" --kubeconfig="$pki/kube-scheduler.kubeconfig" \
		--leader-elect=false --bind-address=127.0.0.1 --cert-dir="$pki/unused" --kube-api-qps=300 --kube-api-burst=600
}

await_node() {
	await kubelet 90 node_ready
	await kube-controller-manager 60 kubectl get serviceaccount default
	step "the node is Ready"
}

node_ready() {
	[ "$(kubectl get node node1 -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" = True ]
}
