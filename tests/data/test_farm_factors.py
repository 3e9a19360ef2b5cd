"""The farm's factors: drawn as promised, in columns, and seen and heard in the media."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from test_farm import changed, pitch

from nano4m.config.clips import ClipsConfig
from nano4m.config.datasets import FarmDataset
from nano4m.config.presets import FARM
from nano4m.data.build import build_clips
from nano4m.data.clip_table import open_clips
from nano4m.data.sources import farm
from nano4m.data.sources.farm_animals import ANIMALS
from nano4m.data.sources.farm_factors import COATS, DISTANCES, SIZES, SNRS, USUAL, YAWS, Factors
from nano4m.data.sources.farm_render import render
from nano4m.data.sources.farm_scene import _parts

SETTINGS = FarmDataset(train=1100, val=1, test=1)
PLANS = farm.plan(SETTINGS, None, seed=11)


def column(plans, name: str) -> np.ndarray:
    return np.array([plan.measures[name] for plan in plans])


def of_class(label: str, count: int) -> list:
    return [plan for plan in PLANS if plan.label == label][:count]


# -- drawn as promised -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_factors_have_the_promised_distributions(seed):
    plans = farm.plan(FarmDataset(train=2200, val=1, test=1), None, seed)
    heading = column(plans, "heading_degrees")
    assert (heading >= 0).all() and (heading < 360).all()
    is_left = np.cos(np.deg2rad(heading)) < 0
    yaw = (heading - 180 * is_left + 180) % 360 - 180
    uniform = {
        "size": (np.log(column(plans, "size_m")), np.log(SIZES)),
        "distance": (np.log(column(plans, "distance_m")), np.log(DISTANCES)),
        "yaw": (yaw, YAWS),
        "snr": (column(plans, "snr_db"), SNRS),
    }
    for name, (values, (low, high)) in uniform.items():
        p = stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue
        assert p > 1e-3, name
    assert stats.binomtest(int(is_left.sum()), len(plans)).pvalue > 1e-3
    names = list(COATS)
    is_usual = [names[int(p.measures["coat"])] == ANIMALS[p.label].coat for p in plans]
    share = USUAL + (1 - USUAL) / len(COATS)
    assert stats.binomtest(sum(is_usual), len(plans), share).pvalue > 1e-3
    others = [int(p.measures["coat"]) for p in plans if p.label == "cat"]
    counts = np.delete(np.bincount(others, minlength=len(COATS)), names.index(ANIMALS["cat"].coat))
    assert stats.chisquare(counts).pvalue > 1e-3, "unusual coats are equally often"
    assert SIZES[0] * SIZES[1] == pytest.approx(1.0), "small and large meet at 1 m"


def test_no_factor_tells_another_and_the_coat_alone_the_class():
    names = ["size_m", "distance_m", "heading_cos", "heading_sin", "snr_db"]
    values = {name: column(PLANS, name) for name in names}
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert stats.spearmanr(values[one], values[other]).pvalue > 1e-3, (one, other)
        by_class = [column([p for p in PLANS if p.label == label], one) for label in ANIMALS]
        assert stats.kruskal(*by_class).pvalue > 1e-3, one
    for label in ANIMALS:
        coats = column([p for p in PLANS if p.label == label], "coat")
        for name in names:
            values = column([p for p in PLANS if p.label == label], name)
            assert stats.spearmanr(coats, values).pvalue > 1e-4, (label, name)
    many = farm.plan(FarmDataset(train=4400, val=1, test=1), None, seed=11)
    for label in ANIMALS:
        coats = column([p for p in many if p.label == label], "coat")
        assert len(set(coats)) == len(COATS), "every class has every coat"


def test_columns_are_the_factors():
    for plan in PLANS[:50]:
        factors = Factors.of(plan.measures)
        assert factors.measures() == plan.measures
        angle = np.arctan2(plan.measures["heading_sin"], plan.measures["heading_cos"])
        assert np.rad2deg(angle) % 360 == pytest.approx(factors.heading)
    # A name is that of the nearest colour, whatever the tint.
    palette = np.array([colour for colour, _ in COATS.values()])
    coats = np.array([Factors.of(plan.measures).colour for plan in PLANS])
    nearest = np.linalg.norm(coats[:, None] - palette, axis=2).argmin(1)
    assert np.mean(nearest == column(PLANS, "coat")) > 0.97


def test_columns_of_the_table_are_those_of_the_plan_and_of_the_scene(tmp_path):
    settings = FarmDataset(train=11, val=11, test=11, picture_size=16, seconds=0.25)
    config = FARM.model_copy(
        update={
            "dataset": settings,
            "clips": ClipsConfig(window_seconds=0.25, picture_size=16, workers=0),
        }
    )
    build_clips(config, None, tmp_path)
    table, plans = open_clips(tmp_path), farm.plan(settings, None, config.seed)
    assert len(table) == len(plans)
    assert {"size_m", "distance_m", "heading_cos", "coat_red", "clutter"} <= set(
        table.measure_names
    )
    for name in plans[0].measures:
        np.testing.assert_array_equal(table.measure(name), column(plans, name))
    for i, plan in enumerate(plans[:11]):
        scene = farm.draw_scene(plan)
        assert table.measure("clutter")[i] == len(scene.centres) - scene.subject_parts
        height, side = (
            np.deg2rad(table.measure(f"sun_{name}_degrees")[i]) for name in ("height", "side")
        )
        sun = [np.cos(height) * np.sin(side), np.sin(height), np.cos(height) * np.cos(side)]
        np.testing.assert_allclose(scene.sun, sun)


def test_a_factor_changes_nothing_else_of_the_scene():
    for plan in PLANS[:11]:
        scene = farm.draw_scene(plan)
        other = farm.draw_scene(changed(plan, heading_degrees=150.0, coat=1.0, coat_red=0.5))
        for name in ("sun", "ground", "zenith", "ambient", "eye_height", "pitch", "waves"):
            np.testing.assert_array_equal(getattr(scene, name), getattr(other, name))
        parts = scene.subject_parts
        np.testing.assert_array_equal(scene.centres[parts:], other.centres[parts:])
        turned = changed(plan, heading_degrees=150.0, coat=1.0)
        np.testing.assert_array_equal(farm.voice(plan, 0.3), farm.voice(turned, 0.3))
        noisy = farm.draw_scene(changed(plan, snr_db=12.0))
        np.testing.assert_array_equal(scene.centres, noisy.centres)


def test_the_wording_of_captions_changes_no_clip():
    free = farm.plan(SETTINGS.model_copy(update={"captions": "free"}), None, seed=11)
    for one, other in zip(PLANS, free, strict=True):
        assert dataclasses.replace(other, caption=one.caption) == one
    assert sum(one.caption != other.caption for one, other in zip(PLANS, free, strict=True)) > 1000


# -- seen --------------------------------------------------------------------------------------


def subject(plan, size: int = 64):
    """Whether the animal is seen at each pixel, and the picture."""
    seen = render(farm.draw_scene(plan), size)
    return seen.subject, seen


@pytest.mark.parametrize("label", sorted(ANIMALS))
def test_the_whole_animal_is_in_view_at_its_largest_and_many_pixels_at_its_smallest(label):
    headings = (0.0, YAWS[1], 180.0 - YAWS[1], 180.0, 180.0 + YAWS[1], 360.0 - YAWS[1])
    for plan, heading in zip(of_class(label, 6), headings, strict=True):
        near = changed(plan, size_m=SIZES[1], distance_m=DISTANCES[0], heading_degrees=heading)
        seen, _ = subject(near)
        border = np.concatenate([seen[0], seen[-1], seen[:, 0], seen[:, -1]])
        assert not border.any()
        far = changed(plan, size_m=SIZES[0], distance_m=DISTANCES[1], heading_degrees=heading)
        assert subject(far)[0].sum() > 60


def test_area_grows_with_size_and_falls_with_distance():
    for label in ("cat", "pig", "horse"):
        plan = of_class(label, 1)[0]
        sizes, distances = (np.linspace(*limits, 6) for limits in (SIZES, DISTANCES))
        areas = [subject(changed(plan, size_m=s))[0].sum() for s in sizes]
        assert (np.diff(areas) > 0).all()
        areas = [subject(changed(plan, distance_m=d))[0].sum() for d in distances]
        assert (np.diff(areas) < 0).all()
        plans = of_class(label, 50)
        own = [subject(p)[0].sum() for p in plans]
        ratio = column(plans, "size_m") / column(plans, "distance_m")
        assert stats.spearmanr(own, ratio).statistic > 0.75


def test_depth_of_the_animal_is_its_distance():
    plans = PLANS[:44]
    found = [subject(p)[1] for p in plans]
    middles = np.array([np.median(seen.depth[seen.subject]) for seen in found])
    assert stats.spearmanr(middles, column(plans, "distance_m")).statistic > 0.9
    assert np.abs(middles - column(plans, "distance_m")).max() < 0.6


def test_the_head_is_where_the_animal_heads():
    """Measured on the scene: from the middle of the body to the middle of the head, from above."""
    for plan in PLANS[:110]:
        groups = np.array(_parts(plan.label)[2])
        centres = farm.draw_scene(plan).centres[: len(groups)]
        x, _, z = centres[groups == "head"].mean(0) - centres[groups == "body"].mean(0)
        off = np.rad2deg(np.arctan2(-z, x)) - plan.measures["heading_degrees"]
        assert abs((off + 180) % 360 - 180) < 30


def test_the_coat_is_seen():
    plans = PLANS[:88]
    colours = []
    for plan in plans:
        inside, seen = subject(plan)
        colours.append(seen.rgb[inside].astype(float).mean(0))
    colours = np.array(colours)
    red, green, blue = (column(plans, f"coat_{name}") for name in ("red", "green", "blue"))
    lightness = stats.spearmanr(colours.mean(1), red + green + blue).statistic
    warmth = stats.spearmanr(colours[:, 0] - colours[:, 2], red - blue).statistic
    assert lightness > 0.75 and warmth > 0.75


# -- heard -------------------------------------------------------------------------------------


def test_pitch_falls_with_size_and_level_with_distance_over_clips():
    plans = of_class("coyote", 60)
    sounds = [farm.voice(plan, 1.024) for plan in plans]
    pitches = [pitch(sound, 250, 1500) for sound in sounds]
    assert stats.spearmanr(pitches, column(plans, "size_m")).statistic < -0.6
    levels = [10 * np.log10(np.mean(sound**2)) for sound in sounds]
    line = stats.linregress(np.log2(column(plans, "distance_m")), levels)
    assert line.slope == pytest.approx(-12, abs=3 * line.stderr), "12 dB a doubling"
    assert line.slope + 4 * line.stderr < 0, "it is heard over all other differences of voices"


def test_the_same_voice_is_fainter_by_the_promised_level_from_afar():
    near, far = DISTANCES
    for plan in of_class("coyote", 10):
        levels = [
            10 * np.log10(np.mean(farm.voice(changed(plan, distance_m=d), 1.024) ** 2))
            for d in (near, far)
        ]
        assert levels[0] - levels[1] == pytest.approx(12 * np.log2(far / near), abs=0.3)


def test_the_background_is_as_loud_as_the_column_says():
    plan = of_class("cow", 1)[0]
    clean = farm.voice(changed(plan, snr_db=200.0), 1.024)
    noises = [farm.voice(changed(plan, snr_db=snr), 1.024) - clean for snr in SNRS]
    drop = 10 * np.log10(np.mean(noises[0] ** 2) / np.mean(noises[1] ** 2))
    assert drop == pytest.approx(SNRS[1] - SNRS[0], abs=0.5)
