"""What a desktop of the grid has and lacks: virtualisation, accelerators, coordinator, its agent's rights. Pure."""

import shlex

from deskgrid.host.doctor.facts import ComputerFacts, Finding, Kvm, Level, as_root, join_group
from deskgrid.host.doctor.trial import EMULATION
from deskgrid.model.inventory import Trial, Verdict, Virtualisation
from deskgrid.model.values.text import counted

CLOCK_SECONDS = 60.0
"""More than this between both clocks is odd; tokens bear 10 minutes."""
_BUSY = ("busy", "VERR_", "in use")


def virtualisation(facts: ComputerFacts) -> Virtualisation:
    """What is known of the processor's hardware virtualisation."""
    if not facts.virtualisation:
        if facts.hypervised:
            return Virtualisation.HIDDEN
        if facts.offered or facts.said_off:
            return Virtualisation.OFF
        return Virtualisation.UNKNOWN if facts.offered is None else Virtualisation.ABSENT
    if facts.said_off and facts.kvm is Kvm.MISSING:
        return Virtualisation.OFF
    return Virtualisation.HELD if facts.vboxdrv and _is_held(facts) else Virtualisation.ON


def _is_held(facts: ComputerFacts) -> bool:
    """KVM refuses to make a machine while another hypervisor runs one."""
    failed = [trial for trial in facts.trials if trial.accelerator == "kvm" and trial.verdict is Verdict.FAILS]
    return any(word in trial.sentence for trial in failed for word in _BUSY)


def cpu(facts: ComputerFacts) -> Finding:
    """The processor."""
    slow = "virtual machines run under software emulation, many times slower."
    match virtualisation(facts):
        case Virtualisation.ON:
            return Finding("cpu", Level.OK, "The CPU offers hardware virtualisation.")
        case Virtualisation.HELD:
            sentence = "The CPU's virtualisation is held by VirtualBox, which runs a machine: ours are emulated."
            return Finding("cpu", Level.WARN, sentence, ("VBoxManage list runningvms",))
        case Virtualisation.OFF:
            sentence = f"The firmware has switched off the CPU's virtualisation (VT-x, AMD-V): {slow}"
            return Finding("cpu", Level.WARN, sentence, as_root(facts, "deskgrid firmware enable-virtualization"))
        case Virtualisation.HIDDEN:
            sentence = (
                f"This computer is a virtual machine and sees no hardware virtualisation: {slow} Switch on nested "
                "virtualisation in the hypervisor that runs this machine."
            )
        case Virtualisation.ABSENT:
            sentence = f"The CPU has no hardware virtualisation: {slow}"
        case Virtualisation.UNKNOWN:
            sentence = (
                f"The CPU shows no hardware virtualisation (flags vmx, svm): {slow} If it has any, switch on VT-x or "
                "AMD-V (SVM) in the firmware's setup; `deskgrid firmware enable-virtualization --dry-run` may help."
            )
    return Finding("cpu", Level.WARN, sentence)


def kvm(facts: ComputerFacts) -> Finding:
    """The device that virtualisation is used by."""
    if facts.kvm is Kvm.OPENS:
        sentence = "/dev/kvm opens; that proves nothing until a guest has run on it: see `accelerators`."
        return Finding("kvm", Level.OK, sentence)
    if facts.kvm is Kvm.REFUSED:
        account = f"{facts.account}, which runs the virtual machines," if facts.account != facts.user else facts.user
        sentence = f"{account} may not open /dev/kvm: software emulation is used, many times slower."
        if not facts.virtualisation:
            sentence += " As the CPU offers no virtualisation, it would probably hang its guests anyway."
            return Finding("kvm", Level.WARN, sentence)
        nameless = facts.account.startswith("uid ")
        mend = as_root(facts, "chmod 0666 /dev/kvm") if nameless else join_group(facts, "kvm")
        return Finding("kvm", Level.WARN, sentence, mend)
    if not facts.virtualisation:
        return Finding("kvm", Level.WARN, "/dev/kvm is missing, as the CPU offers no virtualisation.")
    module = "kvm_amd" if facts.vendor == "AuthenticAMD" else "kvm_intel"
    sentence = (
        "/dev/kvm is missing although the CPU offers virtualisation: the kernel's module isn't loaded. If it can't be "
        'loaded ("Operation not supported"), the firmware has switched virtualisation off.'
    )
    return Finding("kvm", Level.WARN, sentence, as_root(facts, f"modprobe {module}"))


def accelerators(facts: ComputerFacts) -> Finding:
    """What guests can run on, by trial."""
    if not facts.trials:
        return Finding("accelerators", Level.WARN, "No accelerator was tried, so none is proven.")
    working = [trial for trial in facts.trials if trial.verdict is Verdict.WORKS]
    told = " ".join(f"{trial.accelerator}: {_plain(trial)}." for trial in facts.trials)
    if not working:
        sentence = f"A guest of our own could not be run on anything here. {told}"
        return Finding("accelerators", Level.BAD, sentence)
    if all(trial.accelerator == EMULATION for trial in working):
        sentence = f"Guests run under software emulation only. {told}"
        return Finding("accelerators", Level.WARN, sentence)
    return Finding("accelerators", Level.OK, f"A guest of our own was run. {told}")


def _plain(trial: Trial) -> str:
    return f"{trial.verdict.value}, {trial.sentence}".rstrip(".")


def virtualbox(facts: ComputerFacts) -> Finding:
    """A second hypervisor."""
    if virtualisation(facts) is Virtualisation.HELD:
        sentence = f"VirtualBox {facts.virtualbox} runs a machine, and KVM can't run ours beside it."
        return Finding("virtualbox", Level.WARN, " ".join(sentence.split()), ("VBoxManage list runningvms",))
    if facts.vboxdrv:
        sentence = "VirtualBox's driver is loaded; while it runs a machine, KVM may refuse ours."
        return Finding("virtualbox", Level.OK, sentence)
    there = f"VirtualBox {facts.virtualbox} is there." if facts.virtualbox else "VirtualBox is not there; not needed."
    return Finding("virtualbox", Level.OK, there)


def coordinator(facts: ComputerFacts) -> Finding:
    """The way to the coordinator."""
    found = facts.contact
    if found is None:
        return Finding("coordinator", Level.OK, "This computer is no desktop of a grid (yet): no agent's settings.")
    if found.error:
        sentence = f"The coordinator {found.url} can't be reached: {found.error}.".replace("..", ".")
        return Finding("coordinator", Level.BAD, sentence, (f"curl -v --insecure {shlex.quote(found.url)}/v1/health",))
    return Finding("coordinator", Level.OK, f"The coordinator {found.url} answers in {found.milliseconds} ms.")


def coordinator_clock(facts: ComputerFacts) -> Finding:
    """Both clocks."""
    name, found = "coordinator-clock", facts.contact
    if found is None or found.ahead_seconds is None:
        level = Level.WARN if found is not None else Level.OK
        return Finding(name, level, "This computer's clock was not compared with the coordinator's.")
    ahead = found.ahead_seconds
    if abs(ahead) <= CLOCK_SECONDS:
        return Finding(name, Level.OK, f"This computer's clock and the coordinator's differ by {abs(ahead):.0f} s.")
    side = "ahead of" if ahead > 0 else "behind"
    sentence = f"This computer's clock is {abs(ahead):.0f} s {side} the coordinator's; tokens bear 10 minutes at most."
    return Finding(name, Level.WARN, sentence, as_root(facts, "timedatectl set-ntp true"))


def state_folder(facts: ComputerFacts) -> Finding:
    """Where the agent keeps what it must not lose."""
    if not facts.state:
        return Finding("state-folder", Level.OK, "There is no agent here yet, so no folder of its state.")
    if facts.state_error:
        own = f"install -d -m 0700 -o {shlex.quote(facts.account)} {shlex.quote(facts.state)}"
        sentence = f"The agent's state folder {facts.state} is not as it must be: {facts.state_error}."
        return Finding("state-folder", Level.BAD, sentence, as_root(facts, own))
    return Finding("state-folder", Level.OK, f"The agent's state folder {facts.state} is that of {facts.account}.")


def logind(facts: ComputerFacts) -> Finding:
    """Who tells of sessions."""
    if facts.logind:
        return Finding("logind", Level.OK, "logind answers: sessions, locks, lid and sleep are known.")
    sentence = (
        "logind does not answer: sessions are seen by terminals only, and locks, lid and sleep are not seen at all."
    )
    return Finding("logind", Level.WARN, sentence, as_root(facts, "systemctl start systemd-logind"))


def owner(facts: ComputerFacts) -> Finding:
    """Whether the agent's account would see keyboard and mouse."""
    if facts.input_devices == 0:
        return Finding("owner", Level.OK, "No keyboard or mouse here; only terminals and logins tell of an owner.")
    if facts.input_refused == 0:
        return Finding("owner", Level.OK, "Keyboard and mouse can be heard, so an owner's return is seen at once.")
    sentence = (
        f"{facts.account} may not hear {facts.input_refused} of {counted(facts.input_devices, 'input device')}: "
        "an owner at a graphical desktop can't be seen well, and what isn't known counts as busy. "
        "The agent's user needs group input."
    )
    return Finding("owner", Level.WARN, sentence, join_group(facts, "input"))
