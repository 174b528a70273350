#!/bin/sh
# A preStop hook for images without graceful: takes the instance out of service on every server of Eureka, reads that
# back, waits until its callers have heard of it, and exits with 0. Made by `python -m graceful prestop-script`.
#
# It needs a POSIX shell, curl or GNU wget, and sed, tr, head, date and sleep. It writes no file, and needs no root.
# No `set -e`, no `set -u`: whatever else goes wrong, the wait comes, because callers go on calling meanwhile.

# --- what to set ------------------------------------------------------------------------------------------------------
# The environment wins over what stands here: GRACEFUL_APP_NAME over app_name, and so on for all of them.
# Credentials come from the environment alone: GRACEFUL_EUREKA_URL=https://user:password@host/eureka, from a Secret.

eureka_url=''   # the servers, separated by commas
app_name=''
instance_id=''  # empty: app_name:ip_addr:port in lower case; a Spring service has "$(uname -n):$app_name:$port"
ip_addr=''      # empty: POD_IP, which the manifest takes from status.podIP
port=''
eureka_ca_file=''
eureka_client_cert_file=''
eureka_client_key_file=''

# Durations: seconds, or with the units h, m, s and ms.
grace_period=''       # terminationGracePeriodSeconds
propagation_delay=''  # how long callers may go on calling; empty: the longer of the caches' sum and the next but two
eureka_server_cache_delay='30'
eureka_client_fetch_delay='30'
eureka_load_balancer_delay='35'
kubernetes_propagation_delay='10'
drain_timeout='20'    # what the service needs after SIGTERM: these four
cleanup_timeout='5'
deregister_timeout='3'
margin='2'

# --- nothing to set from here on --------------------------------------------------------------------------------------
withdraw_seconds=5     # for all servers together
try_seconds=2          # for one request
budget_limit=3600000   # of the whole hook, in milliseconds, whatever anybody says
answer_limit=65536     # bytes
container_log=/proc/1/fd/1

# Bytes, not characters: what is encoded has to be the same in every locale.
LC_ALL=C
export LC_ALL
# Whoever should read the output may have gone: that is no reason to end early.
trap '' PIPE

# say TEXT: prints it, and keeps it for the container's log.
say() {
    printf '%s\n' "$1" 2>/dev/null
    said="$said$1
"
}
said=''

# log_said: in Kubernetes, where nobody reads what a hook prints, has it all stand in the container's log as well. In
# the background, because a full pipe would hold it.
log_said() {
    if [ -n "${KUBERNETES_SERVICE_HOST-}" ]; then
        { printf %s "$said" >>"$container_log"; } >/dev/null 2>&1 &
    fi
}

# setting DEFAULT NAME...: puts the first of these variables of the environment that is not blank into $value.
setting() {
    value=$1 found=''
    shift
    for name do
        eval "found=\${$name-}"
        trim "$found"
        # Kubernetes sets GRACEFUL_PORT to an address where a Service is called graceful.
        case $name in
            *PORT) trimmed=${trimmed%%*://*} ;;
        esac
        if [ -n "$trimmed" ]; then
            value=$trimmed
            return
        fi
    done
}

trim() {
    trimmed=${1#"${1%%[![:space:]]*}"}
    trimmed=${trimmed%"${trimmed##*[![:space:]]}"}
}

# duration DEFAULT NAME...: the same for a duration, in milliseconds.
duration() {
    default=$1
    setting "$@"
    milliseconds "$value" && return
    say "$2 is not used: expected seconds (20 or 1.5), or numbers with the units h, m, s or ms (2m, 1m30s)"
    milliseconds "$default"
}

# milliseconds TEXT: puts the milliseconds of "20", "1.5", "2m", "1m30s", "500ms" or "PT1M30S" into $value.
milliseconds() {
    value=0 rest=$(printf %s "$1" | tr '[:upper:]' '[:lower:]')
    rest=${rest#pt}
    case $rest in
        *[!0-9.]*) ;;
        *) rest=${rest}s ;;
    esac
    while [ -n "$rest" ]; do
        number=${rest%%[!0-9.]*} rest=${rest#"${rest%%[!0-9.]*}"}
        unit=${rest%%[0-9.]*} rest=${rest#"${rest%%[0-9.]*}"}
        case $number in
            '' | . | *.*.* | ??????????????*) return 1 ;;
            *.*) fraction=${number#*.}000 ;;
            *) fraction=000 ;;
        esac
        # The 1 in front keeps a leading zero from meaning octal.
        fraction=$((1${fraction%"${fraction#???}"} - 1000)) whole=${number%%.*}
        while [ "${whole#0}" != "$whole" ]; do whole=${whole#0}; done
        case $unit in
            h) value=$((value + (${whole:-0} * 1000 + fraction) * 3600)) ;;
            m) value=$((value + (${whole:-0} * 1000 + fraction) * 60)) ;;
            s) value=$((value + ${whole:-0} * 1000 + fraction)) ;;
            ms) value=$((value + ${whole:-0})) ;;
            *) return 1 ;;
        esac
    done
}

# clock: puts milliseconds that only go forward into $now.
clock() {
    if read -r uptime _ </proc/uptime; then
        now=$((${uptime%.*} * 1000 + 1${uptime#*.}0 - 1000))
    else
        now=$(($(date +%s) * 1000))
    fi
} 2>/dev/null

# encode TEXT KEPT: puts the text into $encoded, percent-encoded but for letters, digits and what is kept.
encode() {
    encoded='' rest=$1
    while [ -n "$rest" ]; do
        byte=${rest%"${rest#?}"} rest=${rest#?}
        case $byte in
            [A-Za-z0-9._~-]) ;;
            *) case $2 in
                *"$byte"*) ;;
                *) byte=$(printf '%%%02X' "$(($(printf %d "'$byte") & 255))") ;;
            esac ;;
        esac
        encoded=$encoded$byte
    done
}

# --- Eureka -----------------------------------------------------------------------------------------------------------

# servers: prints the addresses, a line each. A comma that no scheme follows belongs to a password.
servers() {
    zones=''
    for name in $(env | sed -n 's/^\(EUREKA_CLIENT_SERVICEURL_[A-Za-z0-9_]*\)=.*/\1/p'); do
        setting '' "$name"
        zones=$zones${value:+${zones:+,}$value}
    done
    setting "$eureka_url" EUREKA_SERVER_URL
    setting "${zones:-$value}" GRACEFUL_EUREKA_URL
    printf '%s\n' "$value" | sed -e 's#,[[:space:]]*\(https\{0,1\}://\)#\
\1#g' | sed -e 's#^[[:space:]]*##' -e 's#[,/[:space:]]*$##' -e '/^$/d'
}

# identify: puts the app's name and the instance's id into $app and $instance; says what is missing if it cannot.
identify() {
    setting "$app_name" GRACEFUL_APP_NAME EUREKA_INSTANCE_APPNAME SPRING_APPLICATION_NAME OTEL_SERVICE_NAME
    app=$value
    setting "$ip_addr" GRACEFUL_IP_ADDR EUREKA_INSTANCE_IPADDRESS POD_IP
    ip=$value
    setting "$port" GRACEFUL_PORT EUREKA_INSTANCE_NONSECUREPORT SERVER_PORT
    derived=${ip:+${value:+$(printf %s "$app:$ip:$value" | tr '[:upper:]' '[:lower:]')}}
    setting "${instance_id:-$derived}" GRACEFUL_INSTANCE_ID EUREKA_INSTANCE_INSTANCEID
    instance=$value
    if [ -z "$app" ] || [ -z "$instance" ]; then
        say "cannot withdraw from Eureka, its instance is not known: set GRACEFUL_APP_NAME, and GRACEFUL_INSTANCE_ID \
or both POD_IP (from status.podIP) and GRACEFUL_PORT"
        return 1
    fi
}

# choose_client: puts curl or wget into $client. Busybox has a wget of its own, which cannot send a PUT.
choose_client() {
    if command -v curl >/dev/null 2>&1; then
        client=curl
    elif command -v wget >/dev/null 2>&1 && wget --help 2>&1 | grep -q -e --method; then
        client=wget
    else
        say "cannot withdraw from Eureka: there is neither curl nor GNU wget in this image (busybox's wget has no PUT)"
        return 1
    fi
}

# read_files: puts the files for https into $ca, $cert and $key.
read_files() {
    setting "$eureka_ca_file" GRACEFUL_EUREKA_CA_FILE
    ca=$value
    setting "$eureka_client_cert_file" GRACEFUL_EUREKA_CLIENT_CERT_FILE
    cert=$value
    setting "$eureka_client_key_file" GRACEFUL_EUREKA_CLIENT_KEY_FILE
    key=$value
}

# withdraw URL: puts the instance out of service on one server and reads it back, again and again until it is so or
# the time is over; prints what came of it.
withdraw() {
    place=${1#*://} scheme=${1%%://*} credentials='' stars='' result='no answer in time'
    case $scheme in
        http | https) ;;
        *) printf '%s\n' 'an address of Eureka is not used: expected http://... or https://...'; return ;;
    esac
    # The last @ ends the credentials: a password may contain / and @ as they are.
    case $place in
        *@*)
            encode "${place%@*}" '%:'
            credentials=$encoded@ place=${place##*@} stars='***@'
            ;;
    esac
    encode "$place" "/%:!\$&'()*+,;=[]"
    base=$scheme://$credentials$encoded
    encode "$app" ''
    resource=/apps/$encoded
    encode "$instance" :
    resource=$resource/$encoded
    shown="$scheme://$stars$place: $instance"
    while clock && [ "$now" -lt "$withdrawn_by" ]; do
        if put_and_read; then
            printf '%s\n' "$shown $result"
            return
        fi
        # A server that refuses, or that starts up, is not asked in a tight loop.
        clock
        [ "$((now + 1000))" -lt "$withdrawn_by" ] || break
        sleep 1
    done
    printf '%s\n' "$shown $result: NOT withdrawn there"
}

# put_and_read: one try. Puts what came of it into $result; succeeds if nobody is sent to the instance any more.
put_and_read() {
    ask PUT "$base$resource/status?value=OUT_OF_SERVICE&lastDirtyTimestamp=$(date +%s)000" || return
    put=$code
    ask GET "$base$resource" || return
    case $code in
        200) ;;
        404) result='is not registered (404)' && return ;;
        *) result="answered HTTP $put to the change, HTTP $code to reading it back" && return 1 ;;
    esac
    status_in "$answer"
    case $status in
        OUT_OF_SERVICE | DOWN) result="is $status" ;;
        # A word of capitals and nothing else: what a stranger answers is not printed.
        '' | *[!A-Z_]*) result='cannot be read back: what answers is not Eureka' && return 1 ;;
        *) result="is $status (HTTP $put to the change)" && return 1 ;;
    esac
}

# ask METHOD URL: puts what the server answers into $code and $answer; if it does not, the reason into $result.
# The URL may have credentials in it, and everybody sees a command line: it goes to the client by its standard input.
ask() {
    clock
    seconds=$(((withdrawn_by - now + 999) / 1000))
    [ "$seconds" -gt 0 ] || return 1
    [ "$seconds" -lt "$try_seconds" ] || seconds=$try_seconds
    answer=$({ ask_with "$@"; printf '\nended with %s' "$?"; } 2>/dev/null | tr -d '\000\r' | head -c "$answer_limit")
    ended=${answer##*ended with }
    # wget shows the head with blanks in front. The status is the first line's second word.
    trim "$answer"
    case $ended:$trimmed in
        28:* | 1[34][0-9]:*) result='no answer in time' && return 1 ;;
        *:HTTP/*' '[1-5][0-9][0-9]*) ;;
        *) result="cannot be reached ($(reason "$client$ended"))" && return 1 ;;
    esac
    code=${trimmed#* }
    code=${code%"${code#???}"}
}

# reason CLIENT-AND-EXIT-CODE: prints it in words. What the clients themselves say may have the URL in it.
reason() {
    case $1 in
        curl6) echo 'its name is not known' ;;
        curl7 | wget4) echo 'no connection' ;;
        curl35 | curl5[138] | curl60 | curl77 | wget5) echo 'no trust: TLS, certificate or key' ;;
        *[!a-z0-9]*) echo 'no HTTP' ;;
        *) echo "$1" ;;
    esac
}

ask_with() {
    case $client in
        curl) ask_curl "$@" ;;
        *) ask_wget "$@" ;;
    esac
}

# Neither follows a redirect, which leads to a page for people, uses a proxy, or reads anybody's configuration.
ask_curl() {
    method=$1 url=$2
    set -- -q -K - -g -s -i -X "$method" --noproxy '*' --max-time "$seconds" -H 'Accept: application/json'
    [ "$method" = GET ] || set -- "$@" -H 'Content-Length: 0'
    set -- "$@" ${ca:+--cacert "$ca"} ${cert:+--cert "$cert"} ${key:+--key "$key"}
    {
        printf 'url = "%s"\n' "$url"
        setting '' GRACEFUL_EUREKA_CLIENT_KEY_PASSWORD
        [ -z "$value" ] || printf '%s\n' "$value" | sed -e 's/[\\"]/\\&/g' -e 's/.*/pass = "&"/'
    } | within "$seconds" curl "$@"
}

# It says the same of a time-out and of a refusal, so `within` comes first. Without --no-iri it would decode a user's
# name, and with it a / in there.
ask_wget() {
    method=$1 url=$2
    set -- --no-config --no-iri --no-hsts --no-netrc --no-proxy --auth-no-challenge --max-redirect=0
    set -- "$@" --tries=1 --timeout="$((seconds + 1))" --method="$method" --header='Accept: application/json'
    set -- "$@" ${ca:+--ca-certificate="$ca"} ${cert:+--certificate="$cert"} ${key:+--private-key="$key"}
    printf '%s\n' "$url" | within "$seconds" wget -q -S -O - "$@" -i - 2>&1
}

# within SECONDS COMMAND...: runs it, and ends it after that long. A server that sends a byte now and then would hold
# wget for ever, and `timeout` is not everywhere. A program in the background has no standard input but by descriptor 3.
within() {
    seconds=$1
    shift
    exec 3<&0
    "$@" <&3 3<&- &
    asking=$!
    # Left behind by a quick answer, the sleep ends by itself: it holds nothing open.
    { sleep "$seconds"; kill "$asking"; } </dev/null >/dev/null 2>&1 3<&- &
    guard=$!
    wait "$asking"
    asked=$?
    kill "$guard" 2>/dev/null
    return "$asked"
}

# status_in ANSWER: puts the instance's own status into $status: that of {"instance": {"status": ...}}. Neither
# "overriddenStatus" is it, nor a "status" in the metadata.
status_in() {
    status='' depth=1 before='' rest=${1#*'
{'}
    case $1 in
        *'
{'*) ;;
        *) return ;; # no JSON
    esac
    case $rest in
        *\\*) rest=$(printf %s "$rest" | sed 's/\\.//g') ;;
    esac
    set -f
    IFS='"'
    # shellcheck disable=SC2086  # cut at the quotes: outside, inside, outside, ...
    set -- $rest
    unset IFS
    set +f
    while [ $# -gt 1 ]; do
        rest=$1
        while [ -n "$rest" ]; do
            case $rest in
                '{'*) depth=$((depth + 1)) ;;
                '}'*) depth=$((depth - 1)) ;;
            esac
            rest=${rest#?}
        done
        trim "$1"
        if [ "$depth,$before,$trimmed" = 2,status,: ]; then
            status=$2
            return
        fi
        before=$2
        shift 2
    done
}

# --- the wait ---------------------------------------------------------------------------------------------------------

# plan: puts how long callers may go on calling into $propagation, and what the service needs after it into $after.
plan() {
    propagation=0 after=0 proxies=0
    if [ -n "$urls" ]; then
        duration "$eureka_server_cache_delay" GRACEFUL_EUREKA_SERVER_CACHE_DELAY
        propagation=$value
        duration "$eureka_client_fetch_delay" GRACEFUL_EUREKA_CLIENT_FETCH_DELAY
        propagation=$((propagation + value))
        duration "$eureka_load_balancer_delay" GRACEFUL_EUREKA_LOAD_BALANCER_DELAY
        propagation=$((propagation + value))
        # Elsewhere there is nothing to deregister.
        duration "$deregister_timeout" GRACEFUL_DEREGISTER_TIMEOUT
        after=$value
    fi
    if [ -n "${KUBERNETES_SERVICE_HOST-}" ]; then
        duration "$kubernetes_propagation_delay" GRACEFUL_KUBERNETES_PROPAGATION_DELAY
        proxies=$value
    fi
    [ "$propagation" -ge "$proxies" ] || propagation=$proxies
    duration "${propagation_delay:-${propagation}ms}" GRACEFUL_PROPAGATION_DELAY
    propagation=$value
    duration "$drain_timeout" GRACEFUL_DRAIN_TIMEOUT SPRING_LIFECYCLE_TIMEOUT_PER_SHUTDOWN_PHASE
    after=$((after + value))
    duration "$cleanup_timeout" GRACEFUL_CLEANUP_TIMEOUT
    after=$((after + value))
    duration "$margin" GRACEFUL_MARGIN
    after=$((after + value))
}

# read_grace: puts the grace period into $grace, 0 where nobody knows of one, and the hook's end into $deadline.
read_grace() {
    duration "${grace_period:-0}" GRACEFUL_GRACE_PERIOD
    grace=$value
    # 30 s is what Kubernetes gives a pod that does not say.
    [ "$grace" -gt 0 ] || [ -z "${KUBERNETES_SERVICE_HOST-}" ] || grace=30000
    budget=$((grace - (grace < 20000 ? grace / 10 : 2000)))
    [ "$grace" -gt 0 ] && [ "$budget" -lt "$budget_limit" ] || budget=$budget_limit
    deadline=$((started + budget))
}

# wait_for_callers: waits the propagation delay, but leaves the service the time that it needs after SIGTERM. Where the
# grace period is too short for both, they share it in proportion.
wait_for_callers() {
    clock
    ends=$((now + propagation))
    if [ "$grace" -gt 0 ] && [ "$propagation" -gt 0 ]; then
        room=$((started + grace - after))
        [ "$room" -gt "$now" ] || room=$((started + grace * propagation / (propagation + after)))
        [ "$ends" -le "$room" ] || ends=$room
    fi
    [ "$ends" -le "$deadline" ] || ends=$deadline
    # Whole seconds, because not every sleep takes others: up where the wait is whole, down where it is cut.
    seconds=$(((propagation + 999) / 1000)) short=''
    if [ "$ends" -lt "$((now + propagation))" ]; then
        [ "$propagation" -eq 0 ] || short=", of $seconds s that callers may need"
        seconds=$(((ends - now) / 1000))
    fi
    [ "$((now + seconds * 1000))" -le "$deadline" ] || seconds=$(((deadline - now) / 1000))
    [ "$seconds" -ge 0 ] || seconds=0
    say "waits $seconds s for callers to hear of it$short; then SIGTERM comes"
    log_said
    sleep "$seconds" >/dev/null 2>&1 &
    napping=$!
    wait "$napping"
}

napping=''
# Told to end, it ends, and its sleep with it. With 0: the kubelet answers a hook that fails with SIGTERM at once.
# shellcheck disable=SC2086  # without a number if it does not sleep yet
trap 'say "told to end: the wait is cut short"; log_said; kill $napping 2>/dev/null; exit 0' HUP INT TERM

clock
started=$now
read_grace
urls=$(servers)
if [ -z "$urls" ]; then
    say 'nothing to withdraw from: GRACEFUL_EUREKA_URL names no server of Eureka'
elif identify && choose_client; then
    read_files
    withdrawn_by=$((started + withdraw_seconds * 1000))
    [ "$withdrawn_by" -le "$deadline" ] || withdrawn_by=$deadline
    # All servers at once: one that hangs takes no time from the others. Each line is printed whole.
    results=$(
        set -f
        IFS='
'
        for url in $urls; do
            unset IFS
            withdraw "$url" &
        done 2>/dev/null
        wait
    )
    say "$results"
fi
plan
wait_for_callers
exit 0
