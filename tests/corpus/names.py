"""What ``compare`` calls the kinds of mistakes that the corpus names in its own words."""

from collections.abc import Iterable

__all__ = ["acceptable"]

# The corpus's word -> further names of causes that say the same.
_SAME = {
    "align_corners": ("argument_value",),
    "antialias": ("interpolation_antialias",),
    "attention_scale": ("constant_value", "factor_missing", "argument_value"),
    "batch_norm_batch_statistics": ("batch_norm_statistics_swapped",),
    "batch_norm_running_statistics": ("batch_norm_statistics_swapped",),
    "causal_mask_shifted": ("attention_mask_shifted",),
    "ceil_mode": ("pool_ceil_mode",),
    "cell_for_state": ("states_swapped", "wrong_array"),
    "channels_reversed": ("array_flipped",),
    "chunks_swapped": ("halves_swapped", "gate_order", "group_order"),
    "clamp_bounds": ("argument_value", "constant_value"),
    "constant_factor": ("factor_missing", "constant_value"),
    "count_include_pad": ("pool_counts_padding",),
    "dilation": ("argument_value",),
    "elu_alpha": ("argument_value",),
    "forget_bias": ("constant_added",),
    "gate_exchanged": ("halves_swapped", "wrong_array", "arguments_swapped", "weights_exchanged"),
    "glu_halves_swapped": ("halves_swapped",),
    "gradient_sign": ("gradient_scaled", "gradient_straight_through"),
    "heads_order": ("reshape_order", "group_order", "parts_interleaved"),
    "ids_shifted": ("embedding_shifted", "array_shifted", "position_offset"),
    "input_exchanged": ("wrong_array",),
    "label_smoothing_value": ("label_smoothing",),
    "learning_rate_schedule": ("schedule_length", "schedule_bounds"),
    "lower_precision": ("rounded",),
    "mask_axis": ("mask_direction", "attention_mask_direction"),
    "mask_inverted": ("attention_mask_inverted",),
    "mask_missing": ("attention_mask_missing", "attention_not_causal"),
    "mask_shifted": ("attention_mask_shifted",),
    "mask_value": ("argument_value", "constant_value"),
    "max_for_mean": ("reduction_kind",),
    "mean_for_sum": ("reduction_kind",),
    "module_reused": ("weight_reused",),
    "norm_kind": ("norm_axes",),
    "norm_order": ("norm_moved",),
    "norm_momentum": ("batch_norm_momentum",),
    "one_plus_factor": ("norm_scale_plus_one", "term_extra"),
    "operands_exchanged": ("update_gate_inverted", "factor_inverted"),
    "order": ("layers_exchanged", "weights_exchanged"),
    "padding": ("padding_same", "transposed_padding"),
    "padding_same": ("transposed_padding",),
    "padding_mode": ("argument_value",),
    "pixel_shuffle_order": ("parts_interleaved", "reshape_order", "wrong_axis"),
    "pool_padding": ("pool_padding_value",),
    "pool_stride": ("stride", "argument_value", "window_size"),
    "query_key_exchanged": ("arguments_swapped", "weights_exchanged", "wrong_array"),
    "reduction_axis": ("wrong_axis",),
    "repeat_for_tile": ("parts_interleaved",),
    "reshape_for_transpose": ("reshape_order", "wrong_axis"),
    "residual_from": ("wrong_array",),
    "residual_from_norm": ("wrong_array",),
    "rotary_base": ("constant_value",),
    "rotary_interleaved": ("parts_interleaved",),
    "rotary_sign": ("constant_sign", "term_sign"),
    "running_statistics": ("batch_norm_running_statistics", "batch_norm_statistics_swapped"),
    "scale_missing": ("norm_scale_missing", "factor_missing"),
    "sequence_reversed": ("array_flipped", "direction_not_reversed"),
    "softplus_beta": ("activation_beta",),
    "sort_order": ("argument_value",),
    "transpose_missing": ("reshape_order", "wrong_axis"),
}


def acceptable(causes: Iterable[str]) -> frozenset[str]:
    """The given names and all that say the same."""
    return frozenset(name for cause in causes for name in (cause, *_SAME.get(cause, ())))
