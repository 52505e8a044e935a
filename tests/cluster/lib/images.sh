# Berth's images, from the Containerfiles that production uses; only the Debian base is made here, since there is no
# registry to pull it from. An image whose inputs are unchanged is neither built nor imported again.

# The runner is linked statically: it runs in whatever image a team brings.
image_names=(controller sidecar runner agent-base)
# Images of the agent programs, made only when they are asked for: hundreds of megabytes each.
agent_names=(claude-code codex hermes opencode)
contexts=$root/target/images

images() {
	local name force=${1:-}
	[ "$force" = --force ] && rm -f "$cache/images"/*.tar
	alive containerd || fail "the cluster is down; start it: tests/cluster/cluster up"
	binaries
	base_image
	for name in "${image_names[@]}"; do berth_image "$name"; done
}

# BERTH_BINARIES names a folder with ready ones; BERTH_PROFILE=dev builds faster.
binaries() {
	local name profile=${BERTH_PROFILE:-release} built=${BERTH_BINARIES:-}
	if [ -z "$built" ]; then
		command -v cargo >/dev/null || fail "Rust is missing: install it with rustup (https://rustup.rs)"
		built=${CARGO_TARGET_DIR:-$root/target}/${profile/#dev/debug}
		(
			cd "$root"
			cargo build --profile "$profile" --locked -p berth-controller -p berth-sidecar
			cargo rustc --profile "$profile" --locked -p berth-runner --bin berth-runner -- -C target-feature=+crt-static
		) >&2
	fi
	for name in controller sidecar runner; do
		mkdir -p "$contexts/$name"
		strip --strip-debug -o "$contexts/$name/berth-$name" "$built/berth-$name"
	done
	mkdir -p "$contexts/agent-base"
	step "programs of Berth"
}

builder() { buildah --root "$cache/buildah" --runroot "$state/buildah" --storage-driver overlay "$@" </dev/null; }

# The machine's own Debian release and mirrors, as apt is set up: what is linked here finds its C library there.
base_image() {
	local release sources
	release=$(. /etc/os-release && echo "$VERSION_CODENAME")
	# shellcheck disable=SC2016 # apt's own variables
	sources=$(apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' \
		'Created-By: Packages' | sort -u | grep -E " $release(-updates|-security)? main$") ||
		fail "apt knows no mirror of Debian $release; add one to /etc/apt and run apt-get update"
	base=localhost/berth-base:$(echo "$release $sources" | sha256sum | cut -c1-16)
	via_https=$(grep -c 'https://' <<<"$sources" || true)
	builder inspect --type image "$base" >/dev/null 2>&1 && return
	local folder=$cache/base
	mkdir -p "$folder"
	step "Debian $release as a base: a minute, once"
	mmdebstrap --variant=minbase --aptopt='APT::Sandbox::User "root"' "$release" "$folder/base.tar" \
		- <<<"$sources" >"$state/log/base.log" 2>&1 || fail "cannot make the base; see $state/log/base.log"
	printf 'FROM scratch\nADD base.tar /\nENV DEBIAN_FRONTEND=noninteractive\nCMD ["bash"]\n' >"$folder/Containerfile"
	builder bud --quiet --isolation chroot -t "$base" -f "$folder/Containerfile" "$folder" >/dev/null
	rm "$folder/base.tar"
	step "base image"
}

# Prints NAME REFERENCE. The reference carries the key of the inputs: a new image is a new reference, which rolls what
# runs the old one; the tag `dev` is always the newest.
berth_image() {
	local name=$1 key
	key=$(cd "$root" && { echo "$base"; cat "images/$name/Containerfile"; find "target/images/$name" -type f -exec sha256sum {} +; } |
		sha256sum | cut -c1-16)
	if [ "$force" = --force ] || [ -z "$(containers images ls -q "name==localhost/berth-$name:$key")" ]; then
		build_image "$name" "$key" "$root/images/$name/Containerfile" "$contexts/$name"
		containers images tag --force "localhost/berth-$name:dev" "localhost/berth-$name:$key" >/dev/null
		step "image localhost/berth-$name:dev"
	fi
	echo "$name localhost/berth-$name:$key"
}

# extra_image NAME FILE…: an image that some tests need, from FOLDER/Containerfile and these files; `dev` is its tag.
extra_image() {
	local name=$1 key folder=$contexts/$1
	shift
	alive containerd || fail "the cluster is down; start it: tests/cluster/cluster up"
	base_image
	mkdir -p "$folder"
	cp "$@" "$folder/"
	key=$( (echo "$base"; cat "$folder"/*) | sha256sum | cut -c1-16)
	[ -n "$(containers images ls -q "name==localhost/berth-$name:$key")" ] && return
	build_image "$name" "$key" "$folder/Containerfile" "$folder"
	containers images tag --force "localhost/berth-$name:dev" "localhost/berth-$name:$key" >/dev/null
	step "image localhost/berth-$name:dev"
}

# agent_images [NAME…]: the agent programs on agent-base, all or these; prints NAME REFERENCE as berth_image does. npm and
# pip reach their registries as this machine does; no image keeps how.
agent_images() {
	local name key base_key folder force=''
	[ $# -gt 0 ] || set -- "${agent_names[@]}"
	alive containerd || fail "the cluster is down; start it: tests/cluster/cluster up"
	base_image
	folder=$contexts/agent
	mkdir -p "$folder" "$contexts/agent-base"
	base_key=$(berth_image agent-base | awk '{print $2}')
	for name in "$@"; do
		[[ " ${agent_names[*]} " == *" $name "* ]] || fail "no agent is called $name; there are: ${agent_names[*]}"
		key=$(cd "$root" && { echo "$base_key"; cat "images/$name/Containerfile"; } | sha256sum | cut -c1-16)
		if [ -z "$(containers images ls -q "name==localhost/berth-$name:$key")" ]; then
			agent_base_here
			on=localhost/berth-agent-base:dev build_image "$name" "$key" "$root/images/$name/Containerfile" "$folder"
			containers images tag --force "localhost/berth-$name:dev" "localhost/berth-$name:$key" >/dev/null
			step "image localhost/berth-$name:dev, $(du -h "$cache/images/$name-$key.tar" | cut -f1)"
		fi
		echo "$name localhost/berth-$name:$key"
	done
}

# The builder may have it from the cache's archive only.
agent_base_here() {
	builder inspect --type image localhost/berth-agent-base:dev >/dev/null 2>&1 && return
	builder pull --quiet "oci-archive:$(ls "$cache"/images/agent-base-*.tar)" >/dev/null
}

pause_image() {
	local key folder=$cache/pause
	containers images ls -q | grep -qx localhost/berth-pause:dev && return
	key=$(cat "$here"/pause/* | sha256sum | cut -c1-16)
	mkdir -p "$folder"
	cc -static -Os -s -o "$folder/pause" "$here/pause/pause.c"
	build_image pause "$key" "$here/pause/Containerfile" "$folder"
}

# build_image NAME KEY CONTAINERFILE CONTEXT: an archive in the cache, named by its key, then in containerd. `on` is the
# image that it stands on when that isn't Debian's.
build_image() {
	local settings name=$1 key=$2 file=$3 context=$4 archive=$cache/images/$1-$2.tar options=(--quiet --isolation chroot --layers)
	if [ ! -f "$archive" ]; then
		mkdir -p "$cache/images"
		rm -f "$cache/images/$name"-*.tar
		grep -q "^FROM scratch" "$file" || options+=(--from "${on:-$base}")
		# A mirror that is reached by https needs the machine's trust while building; the image doesn't keep it.
		if [ "${via_https:-0}" != 0 ] || [ -n "${on:-}" ]; then options+=(-v /etc/ssl/certs:/etc/ssl/certs:ro); fi
		for settings in /etc/npmrc /etc/pip.conf; do
			if [ -n "${on:-}" ] && [ -f "$settings" ]; then options+=(-v "$settings:$settings:ro"); fi
		done
		builder bud "${options[@]}" -t "localhost/berth-$name:dev" -f "$file" "$context" >"$state/log/image-$name.log" 2>&1 ||
			fail "cannot build image $name; see $state/log/image-$name.log"
		builder push --quiet --disable-compression "localhost/berth-$name:dev" \
			"oci-archive:$archive.new:localhost/berth-$name:dev"
		mv "$archive.new" "$archive"
	fi
	containers images import "$archive" >/dev/null
}
