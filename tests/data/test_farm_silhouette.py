"""The farm's silhouettes are exact, and tell the class whatever size, distance and heading."""

import dataclasses

import numpy as np
from PIL import Image
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

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


def outline(plan) -> np.ndarray:
    """The animal cut out and scaled: neither its size nor its place nor its colour is left."""
    seen = render(farm.draw_scene(plan), SETTINGS.picture_size).subject
    rows, columns = np.nonzero(seen)
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    mask = Image.fromarray(np.uint8(seen * 255)).crop(box).resize((14, 14), Image.Resampling.BOX)
    shape = np.log((box[2] - box[0]) / (box[3] - box[1]))
    return np.append(np.asarray(mask).ravel() / 255, shape)


def test_an_outline_tells_the_class_at_every_size_distance_and_heading():
    plans = farm.plan(FarmDataset(train=550, val=1, test=1), None, seed=3)[:550]
    outlines, labels = [outline(plan) for plan in plans], [plan.label for plan in plans]
    machine = make_pipeline(StandardScaler(), SVC(C=10))
    assert cross_val_score(machine, outlines, labels, cv=4).mean() > 0.95
    shuffled = np.random.default_rng(0).permutation(labels)
    assert cross_val_score(machine, outlines, shuffled, cv=4).mean() < 0.2
