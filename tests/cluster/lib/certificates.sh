# One certificate authority, certificates and kubeconfigs; made once per cluster.

pki=$state/pki

certificates() {
	[ -f "$pki/done" ] && return
	(umask 077 && mkdir -p "$pki")
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj /CN=berth-cluster \
		-keyout "$pki/ca.key" -out "$pki/ca.crt" 2>/dev/null
	openssl genrsa -out "$pki/accounts.key" 2048 2>/dev/null
	openssl rsa -in "$pki/accounts.key" -pubout -out "$pki/accounts.pub" 2>/dev/null
	certificate apiserver /CN=kube-apiserver "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,\
DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:127.0.0.1,IP:$node,IP:10.96.0.1"
	certificate kubelet-server /CN=node1 "DNS:node1,IP:$node"
	certificate apiserver-kubelet /O=system:masters/CN=kube-apiserver-kubelet
	client admin /O=system:masters/CN=admin
	client kube-controller-manager /CN=system:kube-controller-manager
	client kube-scheduler /CN=system:kube-scheduler
	client kube-proxy /CN=system:kube-proxy
	client kubelet /O=system:nodes/CN=system:node:node1
	client coredns /CN=berth:coredns
	install -m 600 "$pki/admin.kubeconfig" "$state/kubeconfig"
	touch "$pki/done"
	step "certificates"
}

# certificate NAME SUBJECT [ALTERNATIVE NAMES]
certificate() {
	local extensions="keyUsage=digitalSignature,keyEncipherment
extendedKeyUsage=serverAuth,clientAuth"
	[ -n "${3:-}" ] && extensions+="
subjectAltName=$3"
	openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$2" \
		-keyout "$pki/$1.key" -out "$pki/$1.csr" 2>/dev/null
	openssl x509 -req -in "$pki/$1.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -days 365 \
		-extfile <(echo "$extensions") -out "$pki/$1.crt" 2>/dev/null
	rm "$pki/$1.csr"
}

# client NAME SUBJECT: a certificate and a kubeconfig that holds it.
client() {
	certificate "$1" "$2"
	kubeconfig "$1" "client-certificate-data: $(base64 -w0 "$pki/$1.crt"), client-key-data: $(base64 -w0 "$pki/$1.key")"
}

# kubeconfig NAME USER
kubeconfig() {
	cat >"$pki/$1.kubeconfig" <<-END
		apiVersion: v1
		kind: Config
		clusters:
		- name: berth-cluster
		  cluster: {server: "https://$node:6443", certificate-authority-data: $(base64 -w0 "$pki/ca.crt")}
		users:
		- name: $1
		  user: {$2}
		contexts:
		- name: berth-cluster
		  context: {cluster: berth-cluster, user: $1}
		current-context: berth-cluster
	END
}
