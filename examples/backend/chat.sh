#!/usr/bin/env bash
# A chat behind `consumer = "backend"`: one HTTP request on standard input, its response on standard output.
# Requires jq, openssl, and socat, which starts it for each connection.

set -euo pipefail
: "${BACKEND_SECRET:?expected a secret}"

say() { # STATUS BODY
  printf 'HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s' \
    "$1" "$(printf %s "$2" | wc -c)" "$2"
}

# Without a response Oneport would treat the program as unavailable and retry; 500 ends one connection.
failed() {
  say '500 Internal Server Error' '"the program failed: its log says why"'
  exit 0 # socat may lose what a program says that ends with another code
}
trap failed ERR

# The secret is briefly visible in this machine's list of processes.
signature_of() { # TIME BODY
  printf '%s.%s' "$1" "$2" | openssl dgst -sha256 -r -hmac "$BACKEND_SECRET" | cut -d ' ' -f 1
}

# Compares hashes, so that the time it takes reveals nothing about the signature. There is one for each secret
# that Oneport has: several while a secret is being rotated.
is_signed() { # TIME SIGNATURES BODY
  [[ $1 =~ ^[0-9]{1,12}$ ]] || return 1
  local age=$(($(date +%s) - $1))
  ((age < 300 && age > -300)) || return 1
  local wanted one
  wanted=$(signature_of "$1" "$3" | tr -d '\n' | sha256sum)
  for one in $2; do
    [[ $(printf %s "$one" | sha256sum) == "$wanted" ]] && return 0
  done
  return 1
}

length=0 time='' signature=''
IFS= read -r request
while IFS= read -r field && field=${field%$'\r'} && [[ -n $field ]]; do
  value=${field#*:} value=${value# }
  case ${field,,} in
    content-length:*) length=$value ;;
    oneport-signature:*)
      signature=${value#*v1=} signature=${signature//,v1=/ }
      time=${value#t=} time=${time%%,*}
      ;;
  esac
done
body=$(head -c "$length")

if ! is_signed "$time" "$signature" "$body"; then
  say '403 Forbidden' '"expected a request that is signed with BACKEND_SECRET"'
  exit
fi

jq -r '
  .connection.state.said as $said | .scope.url_route.kwargs.room as $room | .events[]
  | if .type == "websocket.disconnect" then "left \($room) after \($said // 0) messages: \(.cause)"
    elif .type == "oneport.node_started" then "\(.name) began as \(.node)"
    else empty end' <<<"$body" >&2

answer=$(jq -c '
  .scope.url_route.kwargs.room as $room
  | def connect:
      if $room == "closed"
      then {type: "websocket.http.response", status: 403, headers: [["content-type", "text/plain"]], body: "This room is closed.\n"}
      else {type: "websocket.accept"}, {type: "group.add", group: "chat_\($room)"}
      end;
    def message: (.text // "" | try fromjson catch null) | if type == "object" then .message else null end;
    def error: {type: "chat.error", code: "invalid_message", message: "expected {\"message\": \"...\"}"};
    reduce .events[] as $event ({state: (.connection.state // {said: 0}), events: []};
      if $event.type == "websocket.connect" then .events += [$event | connect]
      elif $event.type == "websocket.receive" then
        ($event | message) as $message
        | if ($message | type) == "string" and $message != "" then
            .state.said += 1
            | {type: "chat.message", $message, user: null, at: (now | todate), number: .state.said} as $said
            | .events += [{type: "group.send", group: "chat_\($room)", event: $said}]
          else .events += [{type: "websocket.send", text: (error | tojson)}] end
      else . end)' <<<"$body")
say '200 OK' "$answer"
