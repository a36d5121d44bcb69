"""How the clocks of the processor are ruled, as the kernel's cpufreq tells it: watts of two rulings differ."""

from pathlib import Path

_FIXED = ", frequency fixed"


def clocks(sysfs: Path) -> str:
    """Return the governors of the processor's clocks, ``schedutil``; with ``, frequency fixed`` where they cannot move.

    The kernel's ``Documentation/admin-guide/pm/cpufreq.rst``: one folder a policy; where the least frequency is the
    greatest, as after ``jetson_clocks``, the governor has no choice.

    Args:
        sysfs: The folder that stands for ``/sys``.

    Returns:
        Empty = unknown: a virtual machine, say, rules no clocks.
    """
    policies = sorted((sysfs / "devices/system/cpu/cpufreq").glob("policy[0-9]*"))
    governors = {word for policy in policies if (word := _word(policy / "scaling_governor"))}
    if not governors:
        return ""
    ends = [(_word(policy / "scaling_min_freq"), _word(policy / "scaling_max_freq")) for policy in policies]
    return " and ".join(sorted(governors)) + (_FIXED if all(low and low == high for low, high in ends) else "")


def are_fixed(words: str) -> bool:
    """Tell whether what :func:`clocks` returned says that the frequency is fixed."""
    return words.endswith(_FIXED)


def _word(file: Path) -> str:
    try:
        return file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
