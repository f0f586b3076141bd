"""Cross-entropy: minus the log-probability of the true class, averaged over the pixels that count."""

from torch import Tensor

from seg_cli.losses.evidence import Evidence, Term


class CrossEntropy(Term):
    """Mean over the valid pixels of ``-log p``, p being the probability given to the true class."""

    def compute(self, evidence: Evidence) -> Tensor:
        return -evidence.true_log_prob.sum() / evidence.valid_count
