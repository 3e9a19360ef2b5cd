"""The farm's silhouettes are exact."""

import dataclasses

import numpy as np

from nano4m.config.datasets import FarmDataset
from nano4m.data.sources import farm
from nano4m.data.sources.farm_render import render

SETTINGS = FarmDataset(train=22, val=11, test=11)


def test_the_silhouette_is_the_animal_and_nothing_else():
    plan = next(plan for plan in farm.plan(SETTINGS, None, seed=3) if plan.label == "sheep")
    scene = farm.draw_scene(plan)
    seen = farm.load(plan, SETTINGS).planes["silhouette"][0]
    assert seen.dtype == np.bool_ and 0.03 < seen.mean() < 0.5
    # Where the animal was, and nowhere else, something farther is seen without it.
    centres = scene.centres.copy()
    centres[: scene.subject_parts, 2] += 1e3
    without = render(dataclasses.replace(scene, centres=centres), SETTINGS.picture_size)
    whole = render(scene, SETTINGS.picture_size)
    np.testing.assert_array_equal(seen, whole.depth < without.depth)
    assert not without.subject.any()
