"""Lines, cells and footnotes of Markdown tables."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Notes:
    """Footnotes of one table, each said once."""

    lines: list[str] = field(default_factory=list)

    def sign(self, *texts: str) -> str:
        """The superscripts that stand for some sentences."""
        for text in texts:
            if text not in self.lines:
                self.lines.append(text)
        numbers = sorted(self.lines.index(text) + 1 for text in texts)
        return f"<sup>{', '.join(map(str, numbers))}</sup>" if numbers else ""

    def listed(self) -> str:
        """Markdown, a line a footnote."""
        return "\n".join(f"{number}. {text}" for number, text in enumerate(self.lines, 1))


def line(cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def escaped(text: str) -> str:
    """Free text in a cell."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def decimals(values: Sequence[float]) -> int:
    """Places after the point that a column's numbers are shown with."""
    largest = max((abs(value) for value in values), default=0.0)
    return 1 if largest >= 100 else 2 if largest >= 1 else 3
