#!/bin/sh
# Runs a command in a root tree, inside a mount namespace that the caller has just made.
#
#   enter.sh ROOT drop UID GID [BIND ...] -- COMMAND [ARGUMENT ...]   as root: becomes UID:GID
#   enter.sh ROOT keep UID GID [BIND ...] -- COMMAND [ARGUMENT ...]   in a user namespace: stays who it is
#
# /proc, /dev, /sys, the resolver's configuration and every BIND are the host's, at the same path. The command has
# no capabilities and can gain none. What is mounted here ends with the last process of the namespace.
#
# The tree belongs to UID, who may have put anything anywhere in it. So as root nothing of the tree is run, and nothing is
# made where a link in it leads.
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
umask 022

# Where this system's "/" is: empty, or the path of the chroot that we came from (see below).
here=
if [ "$1" = outside ]; then
    here=$(readlink /proc/self/fd/9)
    exec 8<&- 9<&-
    shift
fi
root=$here$1 how=$2 uid=$3 gid=$4

# Make the folder $1 of the tree, and with $2 an empty file in it, where they are missing. Step by step, and each step is
# looked at from inside: a link that leads out of the tree is found, and one that comes later is not followed.
place() (
    cd "$root"
    at=$(pwd -P)
    IFS=/
    set -f
    for part in $1; do
        [ -n "$part" ] || continue
        [ -d "./$part" ] || mkdir "./$part"
        cd -P "./$part"
        at=$at/$part
        [ "$(pwd -P)" = "$at" ] || { echo "enter.sh: $at: got a link, expected a folder of the tree" >&2; exit 1; }
    done
    if [ -n "${2-}" ] && [ ! -e "./$2" ]; then
        rm -f "./$2"
        set -C
        : > "./$2"
    fi
)

# A sparse system may lack mount(8); the tree has one, which is good enough for the tree's own account.
if ! command -v mount >/dev/null; then
    if [ "$how" = drop ]; then
        echo "enter.sh: there is no mount(8); run: apt-get install mount" >&2
        exit 127
    fi
    mount() {
        for loader in "$root"/lib64/ld-linux-*.so.* "$root"/lib/ld-linux-*.so.*; do
            [ -e "$loader" ] || continue
            "$loader" --library-path "$(echo "$root"/usr/lib/*-linux-gnu)" "$root/usr/bin/mount" "$@"
            return
        done
    }
fi

# Nothing that is mounted below may appear outside. In a chroot "/" is no mount point, so this can't be said of it;
# but the namespace is ours: step out to its real root, and say it there.
if ! mount --make-rprivate / 2>/dev/null; then
    if [ -z "$here" ] && nsenter --mount=/proc/self/ns/mnt -- /bin/sh -c : 2>/dev/null; then
        exec 8<"$0" 9</
        exec nsenter --mount=/proc/self/ns/mnt -- /bin/sh /proc/self/fd/8 outside "$@"
    fi
    mount --bind "$root" "$root"
    mount --make-rprivate "$root"
fi
shift 4

if [ -e "$here/proc/self" ]; then
    mount --rbind "$here/proc" "$root/proc"
else
    mount -t proc proc "$root/proc"
fi
mount --rbind "$here/dev" "$root/dev"
[ -e "$here/sys/kernel" ] && mount --rbind "$here/sys" "$root/sys"

for name in resolv.conf hosts; do
    [ -e "$here/etc/$name" ] || continue
    place /etc "$name"
    mount --bind "$here/etc/$name" "$root/etc/$name"
done

while [ "$1" != -- ]; do
    if [ -d "$here$1" ]; then
        place "$1"
    else
        place "${1%/*}" "${1##*/}"
    fi
    mount --rbind "$here$1" "$root$1"
    shift
done
shift

cd "$root"
if [ "$how" = drop ]; then
    # The last program that runs as root is the host's chroot(1), which becomes UID inside; with a plus sign before the
    # numbers it looks nothing up, which would load the tree's libraries.
    rest=-all,+sys_chroot,+setuid,+setgid
    exec setpriv --no-new-privs --inh-caps=-all --ambient-caps=-all --bounding-set="$rest" -- \
        chroot --groups= --userspec="+$uid:+$gid" . "$@"
fi
exec chroot "$root" /usr/bin/setpriv --no-new-privs --inh-caps=-all --ambient-caps=-all --bounding-set=-all -- "$@"
