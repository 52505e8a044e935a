# What stands beside Kubernetes: DNS, agent-sandbox, PostgreSQL and a forge.

# --- DNS ---

start_coredns() {
	mkdir -p "$state/coredns"
	write_corefile
	kubectl apply -f "$here/manifests/dns.yaml" >/dev/null
	launch coredns "$state/bin/coredns" -conf "$state/coredns/Corefile"
	await coredns 30 curl -fsS http://127.0.0.1:8181/ready
}

# A sealed cluster's DNS answers for the cluster alone: a question is a message to the outside too.
write_corefile() {
	local rest="forward . /etc/resolv.conf"
	[ -f "$state/sealed" ] && rest=$'template ANY ANY {\n        rcode NXDOMAIN\n    }'
	cat >"$state/coredns/Corefile.new" <<-END
		cluster.local:53 {
		    bind $node
		    errors
		    ready 127.0.0.1:8181
		    kubernetes cluster.local {
		        kubeconfig $pki/coredns.kubeconfig
		        ttl 5
		    }
		}
		.:53 {
		    bind $node
		    errors
		    $rest
		}
	END
	mv "$state/coredns/Corefile.new" "$state/coredns/Corefile"
	if alive coredns; then kill -s USR1 "$(pid_of coredns)"; fi
}

# --- agent-sandbox ---

# Its controller ends at once when a kind of its own isn't there yet.
start_agent_sandbox() {
	local folder
	if ! kubectl get clusterrole agent-sandbox-controller-extensions >/dev/null 2>&1; then
		folder=$(module_folder agent-sandbox sigs.k8s.io/agent-sandbox)/k8s
		kubectl apply --server-side -f "$folder/crds" -f "$here/manifests/agent-sandbox.yaml" \
			-f "$folder/rbac.generated.yaml" -f "$folder/extensions-rbac.generated.yaml" >/dev/null
		kubectl wait --for=condition=Established --timeout=30s -f "$folder/crds" >/dev/null
	fi
	# Admission policies tell it by its ServiceAccount, whose name is too long for a certificate.
	kubeconfig agent-sandbox "token: $(kubectl --namespace agent-sandbox-system create token agent-sandbox-controller \
		--duration 8760h)"
	launch agent-sandbox "$state/bin/agent-sandbox-controller" --kubeconfig "$pki/agent-sandbox.kubeconfig" \
		--extensions --leader-elect=false --metrics-bind-address 127.0.0.1:8480 --health-probe-bind-address 127.0.0.1:8481
	await agent-sandbox 30 curl -fsS http://127.0.0.1:8481/readyz
}

# --- PostgreSQL ---

start_postgres() {
	local home=$state/postgres programs
	programs=$(compgen -G '/usr/lib/postgresql/*/bin' | sort -V | tail -1)
	if [ ! -f "$home/data/PG_VERSION" ]; then
		install -d -o postgres -g postgres -m 755 "$home"
		as postgres "$programs/initdb" --pgdata "$home/data" --auth peer --encoding UTF8 --locale C.UTF-8 >/dev/null
		cat >"$home/data/pg_hba.conf" <<-END
			local all postgres peer
			host  all all      $pods scram-sha-256
		END
	fi
	# After a kill its number may still be in the process table, and PostgreSQL would take that for a running server.
	rm -f "$home/data/postmaster.pid" "$home"/.s.PGSQL.*
	launch postgres setpriv --reuid=postgres --regid=postgres --init-groups "$programs/postgres" -D "$home/data" \
		-c listen_addresses="$node" -c unix_socket_directories="$home" -c max_connections=300 \
		-c fsync=off -c full_page_writes=off -c synchronous_commit=off
	await postgres 30 sql -c 'select 1'
	database berth_owner berth
	database gitea gitea
	role berth
	# The application reads and writes what the owner's migrations make, and makes nothing itself.
	sql --dbname berth -c 'alter default privileges for role berth_owner grant select, insert, update on tables to berth'
}

as() {
	local user=$1
	shift
	(cd / && setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups "$@")
}

sql() { as postgres psql --host "$state/postgres" --dbname postgres --quiet --no-psqlrc --tuples-only -v ON_ERROR_STOP=1 "$@"; }

role() {
	[ -n "$(sql -c "select 1 from pg_roles where rolname = '$1'")" ] ||
		sql -c "create role $1 login password '$(secret "postgres-$1")'"
}

# database OWNER NAME
database() {
	role "$1"
	[ -n "$(sql -c "select 1 from pg_database where datname = '$2'")" ] || sql -c "create database $2 owner $1"
}

# --- Gitea ---

# It must not run as root, and its user can read neither root's cache nor root's modules: both are copied.
start_gitea() {
	local home=$state/gitea
	if [ ! -f "$home/done" ]; then
		install_gitea "$home"
		gitea migrate
		gitea admin user create --admin --username berth-admin --password "$(secret gitea-admin)" \
			--email berth-admin@example.com --must-change-password=false
		touch "$home/done"
	fi
	launch gitea setpriv --reuid=nobody --regid=nogroup --clear-groups \
		env -i PATH="$PATH" HOME="$home" GITEA_WORK_DIR="$home" "$home/gitea" web --config "$home/app.ini"
	await gitea 60 curl -fsS "http://$node:3000/api/v1/version"
}

# The forge as sessions see it: a credential goes over TLS alone. Its address is the same for everyone in the cluster.
start_forge_tls() {
	[ -f "$pki/forge.crt" ] || certificate forge /CN=forge DNS:forge.berth-forge.svc.cluster.local
	kubectl apply -f "$here/manifests/forge.yaml" >/dev/null
	mkdir -p "$state/stunnel"
	cat >"$state/stunnel/stunnel.conf" <<-END
		foreground = yes
		pid =
		setuid = nobody
		setgid = nogroup
		[forge]
		accept = $node:3443
		connect = $node:3000
		cert = $pki/forge.crt
		key = $pki/forge.key
	END
	launch forge-tls stunnel "$state/stunnel/stunnel.conf"
	await forge-tls 30 curl -fsS --cacert "$pki/ca.crt" --connect-to "::$node:3443" \
		https://forge.berth-forge.svc.cluster.local/api/v1/version
}

install_gitea() {
	local home=$1 module part
	install -d -o nobody -g nogroup -m 750 "$home"
	module=$(module_folder gitea code.gitea.io/gitea)
	for part in templates options public; do cp -r --no-preserve=mode,ownership "$module/$part" "$home/"; done
	cp -L "$state/bin/gitea" "$home/gitea"
	sed -e "s|@HOME@|$home|; s|@NODE@|$node|; s|@PASSWORD@|$(secret postgres-gitea)|" \
		-e "s|@SECRET@|$(secret gitea-key)|" "$here/manifests/gitea.ini" >"$home/app.ini"
	chown -R nobody:nogroup "$home"
}

gitea() {
	as nobody env -i PATH="$PATH" HOME="$state/gitea" GITEA_WORK_DIR="$state/gitea" \
		"$state/gitea/gitea" --config "$state/gitea/app.ini" "$@" >>"$state/log/gitea.log" 2>&1 ||
		fail "gitea $1 failed; see $state/log/gitea.log"
}

# --- LiteLLM ---

# The program alone: tests start it, with a configuration of theirs.
add_litellm() {
	local version=1.106.2 folder
	folder=$cache/litellm-$version
	if [ ! -f "$folder/done" ]; then
		step "installing LiteLLM: a minute, once"
		# Debian keeps the module apart.
		python3 -m venv "$folder" 2>/dev/null || { need_packages none:python3-venv && python3 -m venv --clear "$folder"; }
		"$folder/bin/pip" install --quiet --disable-pip-version-check "litellm[proxy]==$version" \
			>"$state/log/litellm.log" 2>&1 || fail "cannot install LiteLLM; see $state/log/litellm.log"
		touch "$folder/done"
	fi
	ln -sf "$folder/bin/litellm" "$state/bin/"
	step "LiteLLM"
}
