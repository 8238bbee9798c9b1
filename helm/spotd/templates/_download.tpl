{{/* Fetches what is missing into the directory $1, checks every file, and only then gives it its name. */}}
{{- define "spotd.downloadScript" -}}
set -euo pipefail

models=$1
partial=
trap '[ -z "$partial" ] || rm -f "$partial"' EXIT

get() {
  local options=(--fail --silent --show-error --location --retry 5 --retry-delay 5 --connect-timeout 30)
  if [ -n "${DOWNLOAD_TOKEN:-}" ]; then
    # Through a pipe, so that no process list shows the token.
    curl "${options[@]}" --header @<(printf 'Authorization: Bearer %s\n' "$DOWNLOAD_TOKEN") "$@"
  else
    curl "${options[@]}" "$@"
  fi
}

right() { echo "$2  $1" | sha256sum --check --status; }

fetch() {  # URL PATH SHA256
  local target=$models/$2
  if [ -f "$target" ] && right "$target" "$3"; then
    echo "$2 is there and right"
    return
  fi
  mkdir -p "$(dirname "$target")"
  partial=$(mktemp "$target.XXXXXX")
  echo "fetching $2 from $1"
  get --output "$partial" "$1"
  right "$partial" "$3" || { echo "$2: the sha256 is not $3" >&2; exit 1; }
  chmod 0644 "$partial"
  mv "$partial" "$target"
  partial=
}

{{ range required "model.download.files is required with model.source download" (.Values.model.download.files | default "") -}}
fetch '{{ .url }}' '{{ .path }}' {{ .sha256 }}
{{ end }}
{{- end -}}
