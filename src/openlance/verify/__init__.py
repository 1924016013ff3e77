"""Parity with recorded numbers: every quantity of a case is computed by this package and its largest error is shown.

    folder --golden--> model + cases --generation | understanding | training | encoders | tables--> checks --report--> table, JSON

A case folder is data only: `case.json` (scalars, texts) and `tensors.safetensors`. Nothing here depends on its sizes.
"""
