#!/bin/sh
# Runs a command in a root tree, inside a mount namespace that the caller has just made.
#
#   enter.sh ROOT drop UID GID [BIND ...] -- COMMAND [ARGUMENT ...]   as root: becomes UID:GID
#   enter.sh ROOT keep UID GID [BIND ...] -- COMMAND [ARGUMENT ...]   in a user namespace: stays who it is
#
# /proc, /dev, /sys, the resolver's configuration and every BIND are the host's, at the same path. The command has
# no capabilities and can gain none. What is mounted here ends with the last process of the namespace.
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
root=$1 how=$2 uid=$3 gid=$4
shift 4

# Nothing that is mounted below may appear outside. "/" is no mount point inside a chroot: then the tree is made one.
if ! mount --make-rprivate / 2>/dev/null; then
    mount --rbind "$root" "$root"
    mount --make-rprivate "$root"
fi

if [ -e /proc/self ]; then
    mount --rbind /proc "$root/proc"
else
    mount -t proc proc "$root/proc"
fi
mount --rbind /dev "$root/dev"
[ -e /sys/kernel ] && mount --rbind /sys "$root/sys"

if [ -e /etc/resolv.conf ]; then
    [ -e "$root/etc/resolv.conf" ] || { rm -f "$root/etc/resolv.conf"; : > "$root/etc/resolv.conf"; }
    mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
fi

while [ "$1" != -- ]; do
    if [ -d "$1" ]; then
        mkdir -p "$root$1"
    else
        mkdir -p "$root${1%/*}"
        [ -e "$root$1" ] || : > "$root$1"
    fi
    mount --rbind "$1" "$root$1"
    shift
done
shift

if [ "$how" = drop ]; then
    set -- --reuid "$uid" --regid "$gid" --clear-groups --bounding-set=-all -- "$@"
else
    set -- --bounding-set=-all -- "$@"
fi
cd "$root"
exec chroot "$root" /usr/bin/setpriv --no-new-privs --inh-caps=-all --ambient-caps=-all "$@"
