# What other teams apply with: the part of Flux that applies, and Argo CD. Optional: `add flux`, `add argocd`.

applier_processes=(kustomize-controller argocd-redis argocd-repo-server argocd-application-controller)

# account NAMESPACE NAME: the kubeconfig of a ServiceAccount that may do everything, as both are installed by default.
account() {
	kubectl create namespace "$1" --dry-run=client --output yaml | kubectl apply --server-side -f - >/dev/null
	kubectl apply --server-side -f - >/dev/null <<-END
		{apiVersion: v1, kind: ServiceAccount, metadata: {name: $2, namespace: $1}}
		---
		apiVersion: rbac.authorization.k8s.io/v1
		kind: ClusterRoleBinding
		metadata: {name: $2}
		roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
		subjects: [{kind: ServiceAccount, name: $2, namespace: $1}]
	END
	kubeconfig "$2" "token: $(kubectl --namespace "$1" create token "$2" --duration 8760h)"
	kubectl config set-context berth-cluster --namespace "$1" --kubeconfig "$pki/$2.kubeconfig" >/dev/null
}

# --- Flux ---

# Its source-controller can't be built here, since a module of its own isn't served: tests/e2e plays it.
add_flux() {
	local source controller version
	alive kustomize-controller && return
	link_programs "$(go_set flux)"
	controller=$(module_folder flux github.com/fluxcd/kustomize-controller)/config/crd/bases
	# The release whose API kustomize-controller was built with.
	version=$(cd "$here/modules/flux" && go list -m -f '{{.Version}}' github.com/fluxcd/source-controller/api)
	source=$(cd "$state" && go mod download -json "github.com/fluxcd/source-controller@$version" |
		sed -n 's/^\s*"Dir": "\(.*\)",$/\1/p')/config/crd/bases
	kubectl apply --server-side -f "$controller" -f "$source" >/dev/null
	kubectl wait --for=condition=Established --timeout=30s -f "$controller" -f "$source" >/dev/null
	start_kustomize_controller
	step "Flux"
}

# As Flux's multi-tenancy lockdown: a Kustomization acts as a ServiceAccount of its own namespace.
start_kustomize_controller() {
	account flux-system kustomize-controller
	mkdir -p "$state/flux"
	launch kustomize-controller env TMPDIR="$state/flux" KUBECONFIG="$pki/kustomize-controller.kubeconfig" \
		RUNTIME_NAMESPACE=flux-system "$state/bin/kustomize-controller" --enable-leader-election=false \
		--default-service-account=default --no-cross-namespace-refs \
		--metrics-addr 127.0.0.1:8490 --health-addr 127.0.0.1:8491
	await kustomize-controller 30 curl -fsS http://127.0.0.1:8491/readyz
}

# --- Argo CD ---

add_argocd() {
	local module
	alive argocd-application-controller && return
	need_packages redis-server:redis-server
	link_programs "$(go_set argocd)"
	account argocd argocd-application-controller
	module=$(module_folder argocd github.com/argoproj/argo-cd/v3)/manifests
	kubectl apply --server-side -k "$module/crds" >/dev/null
	kubectl kustomize "$module/crds" | kubectl wait --for=condition=Established --timeout=30s -f - >/dev/null
	kubectl apply --server-side --namespace argocd -k "$module/base/config" >/dev/null
	# Its API server would make it.
	kubectl patch secret argocd-secret --namespace argocd --type merge --patch-file <(
		printf '{"stringData": {"server.secretkey": "%s"}}' "$(secret argocd)"
	) >/dev/null
	# As docs/install.md says, so that Argo CD knows the health of Berth's kinds.
	kubectl patch configmap argocd-cm --namespace argocd --patch-file "$root/docs/argocd-cm.yaml" >/dev/null
	# Outside of a pod there is no in-cluster configuration: the cluster is one like any other.
	kubectl apply --server-side -f - >/dev/null <<-END
		apiVersion: argoproj.io/v1alpha1
		kind: AppProject
		metadata: {name: default, namespace: argocd}
		spec:
		  sourceRepos: ["*"]
		  destinations: [{server: "*", namespace: "*"}]
		---
		apiVersion: v1
		kind: Secret
		metadata: {name: berth-cluster, namespace: argocd, labels: {argocd.argoproj.io/secret-type: cluster}}
		stringData:
		  name: berth-cluster
		  server: https://$node:6443
		  config: |
		    {"bearerToken": "$(kubectl --namespace argocd create token argocd-application-controller --duration 8760h)",
		     "tlsClientConfig": {"caData": "$(base64 -w0 "$pki/ca.crt")"}}
	END
	local name
	for name in argocd-redis argocd-repo-server argocd-application-controller; do start "$name"; done
	step "Argo CD"
}

# Its program is whatever part its name says.
argocd() {
	local name=$1
	shift
	mkdir -p "$state/argocd/tmp" "$state/argocd/gpg"
	launch "$name" env ARGOCD_BINARY_NAME="$name" ARGOCD_GPG_ENABLED=false ARGOCD_GPG_DATA_PATH="$state/argocd/gpg" \
		TMPDIR="$state/argocd/tmp" KUBECONFIG="$pki/argocd-application-controller.kubeconfig" "$state/bin/argocd" \
		--redis 127.0.0.1:6380 --loglevel info "$@"
}

start_argocd_redis() {
	launch argocd-redis redis-server --bind 127.0.0.1 --port 6380 --save '' --appendonly no
	await argocd-redis 30 redis-cli -p 6380 ping
}

start_argocd_repo_server() {
	argocd argocd-repo-server --disable-tls --address 127.0.0.1 --port 8492 --metrics-address 127.0.0.1 --metrics-port 8493
	await argocd-repo-server 30 curl -fsS http://127.0.0.1:8493/healthz
}

start_argocd_application_controller() {
	argocd argocd-application-controller --repo-server 127.0.0.1:8492 --repo-server-plaintext --metrics-port 8494 \
		--app-resync 5 --app-resync-jitter 0 --persist-resource-health
	await argocd-application-controller 60 curl -fsS http://127.0.0.1:8494/healthz
}
