#!/bin/sh
# Called by mmdebstrap with the root of the tree: accounts, and nothing that a desktop without a network needs not.
set -eu
in_tree() { chroot "$1" /bin/sh -eu -c "$2"; }

in_tree "$1" '
groupadd --system --gid 990 deskgrid
getent group kvm > /dev/null || groupadd --system kvm
useradd --system --uid 990 --gid 990 --groups input,kvm --home-dir /var/lib/deskgrid --shell /usr/sbin/nologin deskgrid
useradd --uid 1000 --create-home --shell /bin/sh anna
printf "anna:owner\n" | chpasswd -c SHA512 -s 1000
useradd --uid 1001 --create-home --shell /bin/sh bert
rm -f /etc/motd /etc/update-motd.d/*
systemctl mask systemd-networkd.service systemd-networkd.socket systemd-timesyncd.service \
    systemd-firstboot.service systemd-pstore.service systemd-update-utmp.service ldconfig.service \
    systemd-journal-catalog-update.service systemd-update-done.service systemd-journal-flush.service \
    serial-getty@ttyS0.service e2scrub_reap.service e2scrub_all.timer apt-daily.timer apt-daily-upgrade.timer \
    dpkg-db-backup.timer fstrim.timer systemd-tmpfiles-clean.timer
mkdir -p /etc/systemd/journald.conf.d /etc/systemd/logind.conf.d
printf "[Journal]\nStorage=volatile\nForwardToConsole=yes\nTTYPath=/dev/ttyS0\nMaxLevelConsole=info\nRateLimitBurst=0\n" \
    > /etc/systemd/journald.conf.d/guest.conf
'
