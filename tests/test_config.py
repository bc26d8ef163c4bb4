"""What a request becomes: overrides, the schedule that fits the weights, and errors before anything long begins."""

from __future__ import annotations


def test_missing_weights_are_reported_before_options_that_do_not_fit_the_schedule_without_them(zoo):
    """With weights, the schedule has three phases; without them it has one."""
    ran = zoo("finetune", "mobilenetv2_050", "--epochs", "8,1,3")
    assert ran.code == 2 and "--epochs takes one value" in ran.err
    block = ran.err.index("NO PRETRAINED WEIGHTS")
    assert block < ran.err.index("the schedule is 'scratch'") < ran.err.index("--epochs takes one value")
