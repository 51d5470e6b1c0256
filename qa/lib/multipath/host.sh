#!/bin/bash
# What a Linux host does with disks through dm-multipath: run as root on that host. Needs open-iscsi, multipath-tools, e2fsprogs, fio.
#
#   host.sh install MULTIPATH_CONF ISCSID_CONF    the settings that LUS ships, and nothing else
#   host.sh login IQN PORTAL                      discovery, then a session with each portal that it found
#   host.sh logout IQN
#   host.sh paths IQN                             a line for each path: LUN PORTAL DEVICE MAP DM_STATE CHECKER_STATE PRIORITY NOOP_INTERVAL NOOP_TIMEOUT RECOVERY
#   host.sh begin raw MAP FOLDER                  passes of fio on the map, written and verified, until `stop`
#   host.sh begin files MAP FOLDER                files on an ext4 on the map, until `stop`
#   host.sh stop FOLDER                           ends both, waits, and fails where one of them did
#   host.sh passes FOLDER                         how many passes of fio, and files, there are
#   host.sh check raw MAP FOLDER                  reads what the last pass wrote
#   host.sh check files MAP FOLDER                unmounted, by e2fsck; mounted again, each file by its sum
#   host.sh plant raw|files MAP FOLDER            damages what was written, in each way that `check` must find, and fails where it does not
#   host.sh refused MAP                           without queueing and without any path: fails where a read gives no error; says after how many ms it did
#   host.sh queue MAP                             with queueing again
#   host.sh dmesg                                 errors of the kernel that reached beyond dm-multipath since the last call
#
# FOLDER is in memory: what was written is known without the disks.
set -euo pipefail

BLOCK=4096
# Of a pass: it is over within seconds, on an emulated machine too.
export RAW_BLOCKS=${RAW_BLOCKS:-256}
FILES=24

fail() { echo "$*" >&2; exit 1; }
uptime_ms() { local up; read -r up _ </proc/uptime; echo "${up/./}0"; }

install_settings() {
    mkdir -p /etc/multipath/conf.d
    cp "$1" /etc/multipath/conf.d/lus.conf
    cat "$2" >>/etc/iscsi/iscsid.conf
    multipathd reconfigure | grep -q ok
}

login() {
    iscsiadm -m discovery -t sendtargets -p "$2"
    iscsiadm -m node -T "$1" --login
    # Whoever asks for the paths waits for what is still to come.
    udevadm settle -t 200 || true
}

# The times are of the session: when a quiet connection is asked, how long the answer may take, how long commands stay with a session that is lost. Seconds.
# Without a process for each value: there, one costs 0.1 s.
paths() {
    local link dev portal lun state interval timeout recovery connection session number=0
    local -A states
    while read -r dev state; do states[$dev]=$state; done < <(multipathd show paths raw format "%d %m %t %T %p")
    shopt -s nullglob
    set -- /dev/disk/by-path/ip-*-iscsi-"$1"-lun-*
    [ $# -gt 0 ] || return 0
    while read -r dev; do
        number=$((number + 1)) link=${!number} dev=${dev##*/}
        lun=${link##*-lun-} portal=${link##*/ip-}
        case $lun in *-part*) continue ;; esac
        cd -P "/sys/block/$dev/device/../.."
        connection=(connection*/iscsi_connection/connection*) session=(iscsi_session/session*)
        read -r interval <"${connection[0]}/recv_tmo"
        read -r timeout <"${connection[0]}/ping_tmo"
        read -r recovery <"${session[0]}/recovery_tmo"
        echo "$lun ${portal%%-iscsi-*} $dev ${states[$dev]:-[none] [none] [none] 0} $interval $timeout $recovery"
    done < <(readlink -f "$@")
}

# A number into a file that others read at any moment: it is never empty.
count() { echo "$1" >"$2.new" && mv "$2.new" "$2"; }

# One pass of fio over the first blocks of a map, each written once in random order, then read: it must be full of this pass's number and its own offset, to the last
# byte. (A CRC would say of an older pass's block that it is fine.) JSON on stdout.
fio_pass() {
    local map=$1 number=$2
    shift 2
    fio --name=raw --filename="/dev/mapper/$map" --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite --bs=$BLOCK --size=$((RAW_BLOCKS * BLOCK)) \
        --verify=pattern --verify_pattern="0x$(printf %08x "$number")"%o --verify_fatal=1 --verify_state_save=0 --output-format=json "$@"
}

raw_load() {
    local map=$1 folder=$2 pass=0
    until [ -e "$folder/stop" ]; do
        pass=$((pass + 1))
        fio_pass "$map" $pass >"$folder/raw.out" || fail "fio's pass $pass failed: $(tail -c 2000 "$folder/raw.out")"
        mv "$folder/raw.out" "$folder/raw.$pass.json"
        count $pass "$folder/raw.done"
    done
}

# Files that are made, renamed over older ones, and synced; the sum of each is known apart from the disk.
files_load() {
    local folder=$1 number=0 name sum begun
    : >"$folder/files.stalls"
    until [ -e "$folder/stop" ]; do
        number=$((number + 1)) name=d$((number % 3))/f$((number % FILES))
        begun=$(uptime_ms)
        make_file "$folder" "$name" $((4096 + RANDOM * 8))
        echo $(($(uptime_ms) - begun)) >>"$folder/files.stalls"
        count $number "$folder/files.done"
    done
}

# A file that is on the disk, and its sum, afterwards.
make_file() {
    local folder=$1 name=$2 size=$3
    mkdir -p "$folder/mnt/${name%/*}" "$folder/sums/${name%/*}"
    head -c "$size" /dev/urandom >"$folder/content"
    cp "$folder/content" "$folder/mnt/$name.new"
    sync "$folder/mnt/$name.new"
    mv "$folder/mnt/$name.new" "$folder/mnt/$name"
    sync "$folder/mnt/${name%/*}"
    (cd "$folder" && sha256sum content | sed "s|content|$name|" >"sums/$name")
}

make_ext4() {
    local map=$1 folder=$2
    mkdir -p "$folder/mnt" "$folder/sums"
    mkfs.ext4 -q -F -b $BLOCK -E nodiscard "/dev/mapper/$map"
    mount_ext4 "$map" "$folder"
}

mount_ext4() { mount -o errors=remount-ro "/dev/mapper/$1" "$2/mnt"; }

begin() {
    local what=$1 map=$2 folder=$3
    mkdir -p "$folder"
    rm -rf "$folder/stop" "$folder/$what".*
    [ "$what" = raw ] || make_ext4 "$map" "$folder"
    (
        trap 'echo $? >"$folder/$what.status"' EXIT
        if [ "$what" = raw ]; then raw_load "$map" "$folder"; else files_load "$folder"; fi
    ) </dev/null >"$folder/$what.said" 2>&1 &
}

stop() {
    local folder=$1 what amiss=
    touch "$folder/stop"
    for what in raw files; do
        [ -e "$folder/$what.said" ] || continue
        until [ -e "$folder/$what.status" ]; do sleep 0.2; done
        [ "$(cat "$folder/$what.status")" = 0 ] || amiss="$amiss $what ended with $(cat "$folder/$what.status"): $(cat "$folder/$what.said");"
    done
    [ -z "$amiss" ] || fail "the host's I/O failed:$amiss"
}

passes() {
    local what
    for what in raw files; do
        if [ -e "$1/$what.status" ]; then fail "$what ended: $(cat "$1/$what.said")"; fi
        echo "$what $(cat "$1/$what.done" 2>/dev/null || echo 0)"
    done
}

check() {
    local what=$1 map=$2 folder=$3
    if [ "$what" = raw ]; then
        fio_pass "$map" "$(cat "$folder/raw.done")" --verify_only >"$folder/check.out" || fail "fio does not read what it wrote: $(tail -c 2000 "$folder/check.out")"
        return
    fi
    umount "$folder/mnt"
    e2fsck -fn "/dev/mapper/$map" >"$folder/check.out" 2>&1 || fail "e2fsck: $(cat "$folder/check.out")"
    mount_ext4 "$map" "$folder"
    (cd "$folder/mnt" && cat ../sums/*/* | sha256sum --check --quiet >../check.out 2>&1) || fail "files are not what was written: $(cat "$folder/check.out")"
    umount "$folder/mnt"
    mount_ext4 "$map" "$folder"
}

# Whether a check in a shell of its own fails.
finds() { ! ("$0" check "$@") >"$3/found" 2>&1; }

copy() { dd if="$1" of="$2" bs=$BLOCK count=1 conv=notrunc oflag=direct status=none "${@:3}"; }

plant_raw() {
    local map=$1 folder=$2 disk=/dev/mapper/$1 block
    RAW_BLOCKS=64 block=$((RANDOM % 64))
    mkdir -p "$folder"
    fio_pass "$map" 1 >/dev/null
    dd if="$disk" of="$folder/old" bs=$BLOCK count=1 skip=$block iflag=direct status=none
    fio_pass "$map" 2 >/dev/null
    echo 2 >"$folder/raw.done"
    dd if="$disk" of="$folder/new" bs=$BLOCK count=1 skip=$block iflag=direct status=none
    check raw "$map" "$folder"
    copy "$folder/old" "$disk" seek=$block
    finds raw "$map" "$folder" || fail "block $block has what an older pass wrote, and nobody saw it"
    copy /dev/urandom "$disk" seek=$block iflag=fullblock
    finds raw "$map" "$folder" || fail "block $block was overwritten, and nobody saw it"
    copy "$folder/new" "$disk" seek=$(((block + 1) % RAW_BLOCKS))
    copy "$folder/new" "$disk" seek=$block
    finds raw "$map" "$folder" || fail "block $block is in another's place, too, and nobody saw it"
    echo "an older block, a foreign one, a misplaced one: each was found"
}

plant_files() {
    local map=$1 folder=$2 disk=/dev/mapper/$1 at
    make_ext4 "$map" "$folder"
    make_file "$folder" d0/f0 40000
    check files "$map" "$folder"
    umount "$folder/mnt"
    at=$(debugfs -R "bmap /d0/f0 3" "$disk" 2>/dev/null)
    copy /dev/urandom "$disk" seek="$at" iflag=fullblock
    mount_ext4 "$map" "$folder"
    finds files "$map" "$folder" || fail "a block of a file was overwritten, and nobody saw it"
    umount "$folder/mnt" 2>/dev/null || true
    debugfs -w -R "clri /d0/f0" "$disk" 2>/dev/null
    mount_ext4 "$map" "$folder"
    finds files "$map" "$folder" || fail "an inode is gone, and nobody saw it"
    grep -q e2fsck "$folder/found" || fail "not e2fsck, but: $(cat "$folder/found")"
    ! mountpoint -q "$folder/mnt" || umount "$folder/mnt"
    rm -rf "$folder/sums"
    echo "a file's block and a missing inode: each was found"
}

refused() {
    local begun
    multipathd disablequeueing map "$1" | grep -q ok
    begun=$(uptime_ms)
    ! dd if="/dev/mapper/$1" of=/dev/null bs=$BLOCK count=1 iflag=direct status=none 2>/dev/null || fail "no path is left, and a read is answered"
    echo $(($(uptime_ms) - begun))
}

errors_in_dmesg() {
    dmesg --read-clear | grep -E 'I/O error.*\bdm-|\bdm-.*I/O error|Buffer I/O error on dev dm|EXT4-fs (error|warning)|EXT4-fs .*(Remounting|aborted)|JBD2: ' || true
}

case ${1-} in
install) install_settings "$2" "$3" ;;
login) login "$2" "$3" ;;
logout) iscsiadm -m node -T "$2" --logout ;;
paths) paths "$2" ;;
begin) begin "$2" "$3" "$4" ;;
stop) stop "$2" ;;
passes) passes "$2" ;;
check) check "$2" "$3" "$4" ;;
plant) "plant_$2" "$3" "$4" ;;
refused) refused "$2" ;;
queue) multipathd restorequeueing map "$2" | grep -q ok ;;
dmesg) errors_in_dmesg ;;
*) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
esac
