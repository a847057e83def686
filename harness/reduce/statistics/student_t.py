"""Student's t for any number of degrees of freedom.

scipy is imported on use: its import takes as long as that of the rest of the program.
"""


def t_quantile(within: float, df: float) -> float:
    """The t with P(|T| <= t) = within."""
    from scipy.special import stdtrit

    return -float(stdtrit(df, (1 - within) / 2))


def t_beyond(t: float, df: float) -> float:
    """P(T > t), one-sided; exact for small probabilities too."""
    from scipy.special import stdtr

    return float(stdtr(df, -t))
