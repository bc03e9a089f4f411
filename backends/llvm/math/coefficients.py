"""Polynomial coefficients of the mathematical functions, lowest power first.

Least weighted error polynomials found by a Remez exchange in 80-digit arithmetic and rounded
to the format one coefficient after another, the rest corrected each time. Below each
table stand what it approximates, its interval, and its largest weighted error. Printed by
`python -m tests.backends.math.minimax`; a test evaluates every stated error again.
"""

from __future__ import annotations

EXP_F32 = (
    float.fromhex("0x1.fffffe0000000p-2"),
    float.fromhex("0x1.5554b40000000p-3"),
    float.fromhex("0x1.5556f60000000p-5"),
    float.fromhex("0x1.1225440000000p-7"),
    float.fromhex("0x1.6b96b80000000p-10"),
)
"""(e^r - 1 - r)/r² for |r| <= ln(2)/2, relative error of e^r - 1: 2^-26.13."""

TANH_F32 = (
    float.fromhex("-0x1.55542c0000000p-2"),
    float.fromhex("0x1.10c8040000000p-3"),
    float.fromhex("-0x1.aec7fe0000000p-5"),
    float.fromhex("0x1.0a982c0000000p-6"),
)
"""(tanh(x)/x - 1)/x² in x² for |x| <= 0.56, relative error of tanh: 2^-24.44."""

LOG_F32 = (
    float.fromhex("-0x1.0000140000000p-1"),
    float.fromhex("0x1.5555e60000000p-2"),
    float.fromhex("-0x1.ffddde0000000p-3"),
    float.fromhex("0x1.99217e0000000p-3"),
    float.fromhex("-0x1.5884a60000000p-3"),
    float.fromhex("0x1.32dc2c0000000p-3"),
    float.fromhex("-0x1.ee654a0000000p-4"),
    float.fromhex("0x1.bbc35e0000000p-5"),
)
"""(log(1+f) - f)/f² for -1/4 <= f <= 1/2, relative error of log(1+f): 2^-25.09."""

SIN_F32 = (
    float.fromhex("-0x1.5555440000000p-3"),
    float.fromhex("0x1.1106c60000000p-7"),
    float.fromhex("-0x1.991c2c0000000p-13"),
)
"""(sin(r)/r - 1)/r² in r² for |r| <= 0.787, relative error of sin: 2^-27.84."""

COS_F32 = (
    float.fromhex("0x1.55554a0000000p-5"),
    float.fromhex("-0x1.6c0c260000000p-10"),
    float.fromhex("0x1.99e70a0000000p-16"),
)
"""(cos(r) - 1 + r²/2)/r⁴ in r² for |r| <= 0.787, relative error of cos: 2^-32.95."""

ERF_F32 = (
    float.fromhex("0x1.06eba60000000p-3"),
    float.fromhex("-0x1.8126fa0000000p-2"),
    float.fromhex("0x1.ce1de60000000p-4"),
    float.fromhex("-0x1.b6bee40000000p-6"),
    float.fromhex("0x1.4875b60000000p-8"),
    float.fromhex("-0x1.3f52d00000000p-11"),
)
"""erf(x)/x - 1 in x² for |x| <= 0.9, relative error of erf: 2^-26.08."""

ERFC_F32 = (
    float.fromhex("-0x1.ceec800000000p-13"),
    float.fromhex("-0x1.a08cd60000000p+0"),
    float.fromhex("-0x1.d66ff00000000p-1"),
    float.fromhex("-0x1.33df7c0000000p-3"),
    float.fromhex("0x1.083b620000000p-5"),
    float.fromhex("-0x1.22da300000000p-8"),
    float.fromhex("0x1.2d8ab40000000p-12"),
)
"""log2(erfc(x)) for 0.89 <= x <= 4, relative error of erf: 2^-29.07."""

EXP2_F32 = (
    float.fromhex("0x1.62e42a0000000p-1"),
    float.fromhex("0x1.ebf9c20000000p-3"),
    float.fromhex("0x1.c6b6dc0000000p-5"),
    float.fromhex("0x1.3ce8c00000000p-7"),
    float.fromhex("0x1.5bd88a0000000p-10"),
)
"""(2^f - 1)/f for |f| <= 1/2, relative error of 2^f: 2^-23.35."""

POW_LOG2_F32 = (
    float.fromhex("0x1.71547652bee13p+1"),
    float.fromhex("0x1.ec709d1294b0bp-1"),
    float.fromhex("0x1.2777801863f39p-1"),
    float.fromhex("0x1.a58d710543a87p-2"),
    float.fromhex("0x1.5cea227936e58p-2"),
)
"""log2((1+s)/(1-s))/s in s² for |s| <= 0.1716, relative error: 2^-37.78."""

POW_EXP2_F32 = (
    float.fromhex("0x1.62e430af6973ap-1"),
    float.fromhex("0x1.ebfbdc3a089f1p-3"),
    float.fromhex("0x1.c6aee82453433p-5"),
    float.fromhex("0x1.3b2d4dfaacb70p-7"),
    float.fromhex("0x1.5f3e89d08bad8p-10"),
    float.fromhex("0x1.41fb645cceb87p-13"),
)
"""(2^f - 1)/f for |f| <= 1/2, relative error of 2^f: 2^-28.91."""

EXP_F64 = (
    float.fromhex("0x1.0000000000000p-1"),
    float.fromhex("0x1.5555555555559p-3"),
    float.fromhex("0x1.5555555555558p-5"),
    float.fromhex("0x1.111111110f6f1p-7"),
    float.fromhex("0x1.6c16c16c16bc4p-10"),
    float.fromhex("0x1.a01a01afa8342p-13"),
    float.fromhex("0x1.a01a019dbcc44p-16"),
    float.fromhex("0x1.71ddf91b41428p-19"),
    float.fromhex("0x1.27e4f94ff4b4cp-22"),
    float.fromhex("0x1.af5d36cc95b4ep-26"),
    float.fromhex("0x1.1f388d1dd47afp-29"),
)
"""(e^r - 1 - r)/r² for |r| <= ln(2)/2, relative error of e^r - 1: 2^-61.62."""

TANH_F64 = (
    float.fromhex("-0x1.5555555555454p-2"),
    float.fromhex("0x1.11111110fd7eap-3"),
    float.fromhex("-0x1.ba1ba1a995c8ap-5"),
    float.fromhex("0x1.664f450ca2123p-6"),
    float.fromhex("-0x1.226dca5b7448bp-7"),
    float.fromhex("0x1.d6c3c090ae041p-9"),
    float.fromhex("-0x1.7cdc8baf9bc7fp-10"),
    float.fromhex("0x1.2f19db1e38b29p-11"),
    float.fromhex("-0x1.b59252dca96a4p-13"),
    float.fromhex("0x1.a27a3d0ffbfc0p-15"),
)
"""(tanh(x)/x - 1)/x² in x² for |x| <= 0.56, relative error of tanh: 2^-54.93."""

LOG_F64 = (
    float.fromhex("0x1.555555555577dp-1"),
    float.fromhex("0x1.99999998eec37p-2"),
    float.fromhex("0x1.249249b393540p-2"),
    float.fromhex("0x1.c71c007382b21p-3"),
    float.fromhex("0x1.747509f79aef3p-3"),
    float.fromhex("0x1.384fba26e417fp-3"),
    float.fromhex("0x1.3ad6aba65ed3dp-3"),
)
"""(log((1+s)/(1-s))/s - 2)/s² in s² for |s| <= 0.2, relative error of log: 2^-55.87."""

SIN_F64 = (
    float.fromhex("-0x1.5555555555548p-3"),
    float.fromhex("0x1.111111110f72dp-7"),
    float.fromhex("-0x1.a01a019be8907p-13"),
    float.fromhex("0x1.71de3554926d2p-19"),
    float.fromhex("-0x1.ae5e4afcc52c4p-26"),
    float.fromhex("0x1.5d8b2aeae874ep-33"),
)
"""(sin(r)/r - 1)/r² in r² for |r| <= 0.787, relative error of sin: 2^-57.88."""

COS_F64 = (
    float.fromhex("0x1.555555555554ap-5"),
    float.fromhex("-0x1.6c16c16c14e01p-10"),
    float.fromhex("0x1.a01a019c5c684p-16"),
    float.fromhex("-0x1.27e4f7cd63328p-22"),
    float.fromhex("0x1.1ee9c36232437p-29"),
    float.fromhex("-0x1.8f99e8c02d0a0p-37"),
)
"""(cos(r) - 1 + r²/2)/r⁴ in r² for |r| <= 0.787, relative error of cos: 2^-63.84."""

ERF_F64 = (
    float.fromhex("0x1.06eba8214db69p-3"),
    float.fromhex("-0x1.812746b0379e7p-2"),
    float.fromhex("0x1.ce2f21a0429dap-4"),
    float.fromhex("-0x1.b82ce31276b5fp-6"),
    float.fromhex("0x1.565bcd0a7a5a7p-8"),
    float.fromhex("-0x1.c02db3171c5dep-11"),
    float.fromhex("0x1.f9a30628a561ep-14"),
    float.fromhex("-0x1.f4cf593f653eap-17"),
    float.fromhex("0x1.b9b76a2b660d2p-20"),
    float.fromhex("-0x1.5d83623c56e4cp-23"),
    float.fromhex("0x1.e2925d9727927p-27"),
    float.fromhex("-0x1.d1cf43101076cp-31"),
)
"""erf(x)/x - 1 in x² for |x| <= 0.9, relative error of erf: 2^-56.33."""

ERFC_F64 = (
    float.fromhex("-0x1.5baa45cb68ac5p-22"),
    float.fromhex("-0x1.a0be498dc1345p+0"),
    float.fromhex("-0x1.d6411b13ac866p-1"),
    float.fromhex("-0x1.2f8c4326c8ac2p-3"),
    float.fromhex("0x1.c254b0d57ebefp-6"),
    float.fromhex("0x1.ebe08bc56a1f2p-12"),
    float.fromhex("-0x1.5950e4176dbe9p-9"),
    float.fromhex("0x1.07d300b36d766p-10"),
    float.fromhex("-0x1.0bb640bb3c1b2p-13"),
    float.fromhex("-0x1.082e35a0dd62bp-14"),
    float.fromhex("0x1.8440fed9425dfp-15"),
    float.fromhex("-0x1.1746ea62d709ap-16"),
    float.fromhex("0x1.117900d6f97edp-18"),
    float.fromhex("-0x1.82239be14ed52p-21"),
    float.fromhex("0x1.86da3200e652ap-24"),
    float.fromhex("-0x1.0eb7e90714716p-27"),
    float.fromhex("0x1.cd16c510390dep-32"),
    float.fromhex("-0x1.6c9d9b8a83e06p-37"),
)
"""log2(erfc(x)) for 0.89 <= x <= 6, relative error of erf: 2^-55.56."""

EXP2_F64 = (
    float.fromhex("0x1.62e42fefa39efp-1"),
    float.fromhex("0x1.ebfbdff82c59cp-3"),
    float.fromhex("0x1.c6b08d704a0d4p-5"),
    float.fromhex("0x1.3b2ab6fba11e8p-7"),
    float.fromhex("0x1.5d87fe78b3beep-10"),
    float.fromhex("0x1.4309130c056d7p-13"),
    float.fromhex("0x1.ffcbfbf8a74eep-17"),
    float.fromhex("0x1.62bfcdd0905dap-20"),
    float.fromhex("0x1.b5260dd9d8a75p-24"),
    float.fromhex("0x1.e611bc86e25acp-28"),
    float.fromhex("0x1.e80eb1625c109p-32"),
)
"""(2^f - 1)/f for |f| <= 1/2, relative error of 2^f: 2^-57.76."""

POW_LOG_F64 = (
    float.fromhex("0x1.9999999999996p-2"),
    float.fromhex("0x1.2492492492f52p-2"),
    float.fromhex("0x1.c71c71c5965a4p-3"),
    float.fromhex("0x1.745d182978e20p-3"),
    float.fromhex("0x1.3b1364be2d136p-3"),
    float.fromhex("0x1.112071198523ap-3"),
    float.fromhex("0x1.de3d19d525ad6p-4"),
    float.fromhex("0x1.eac8d1441bfbfp-4"),
)
"""(log((1+s)/(1-s))/s - 2 - 2s²/3)/s⁴ in s² for |s| <= 0.1716, relative error of log: 2^-73.48."""
