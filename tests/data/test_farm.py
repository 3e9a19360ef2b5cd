"""The farm: its geometry against independent arithmetic, its voices against measurements."""

import dataclasses
import pickle
from collections import Counter

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from nano4m.config.datasets import FarmDataset
from nano4m.data.sources import farm, farm_render
from nano4m.data.sources.base import ClipPlan
from nano4m.data.sources.farm_animals import ANIMALS
from nano4m.data.sources.farm_factors import DISTANCES
from nano4m.data.sources.farm_render import FOCAL, Scene, render
from nano4m.data.sources.farm_voice import SAMPLE_RATE, VOICES

SETTINGS = FarmDataset(train=220, val=22, test=33, picture_size=48)
PLANS = farm.plan(SETTINGS, None, seed=5)


def one_of(label: str) -> ClipPlan:
    return next(plan for plan in PLANS if plan.label == label)


def changed(plan: ClipPlan, **measures: float) -> ClipPlan:
    assert set(measures) <= set(plan.measures)
    return dataclasses.replace(plan, measures={**plan.measures, **measures})


def spectrum(sound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in Hz and mean power of Hann windows."""
    windows = np.lib.stride_tricks.sliding_window_view(sound, 2048)[::512] * np.hanning(2048)
    power = (np.abs(np.fft.rfft(windows)) ** 2).mean(axis=0)
    return np.fft.rfftfreq(2048, 1.0 / SAMPLE_RATE), power


def pitch(sound: np.ndarray, low: float, high: float) -> float:
    """Frequency in Hz of the highest autocorrelation of the loudest 60 ms."""
    width = round(0.06 * SAMPLE_RATE)
    energy = np.convolve(sound**2, np.ones(width), mode="valid")
    piece = sound[np.argmax(energy) :][:width].astype(np.float64)
    correlation = np.correlate(piece, piece, mode="full")[width - 1 :]
    first, last = int(SAMPLE_RATE / high), int(SAMPLE_RATE / low)
    return SAMPLE_RATE / (first + int(np.argmax(correlation[first:last])))


def spheres(*balls: tuple[float, float, float, float], sun: tuple[float, ...] = (0, 1, 0)) -> Scene:
    """Scene of white spheres (x, y, z, radius), the camera level at a height of 1."""
    white = np.full((len(balls), 3), 0.9)
    none = np.zeros(len(balls))
    return Scene(
        centres=np.array([ball[:3] for ball in balls]),
        shapes=np.array([ball[3] * np.eye(3) for ball in balls]),
        colours=white,
        seconds=white,
        patches=none,
        ripple=none,
        waves=np.zeros((3, 4)),
        sun=np.array(sun) / np.linalg.norm(sun),
        ground=np.full(3, 0.5),
        grass=np.full(3, 0.5),
        zenith=np.array([0.2, 0.4, 0.9]),
        horizon=np.array([0.8, 0.8, 0.9]),
        ambient=0.4,
        eye_height=1.0,
        pitch=0.0,
    )


# -- the plan ----------------------------------------------------------------------------------


def test_plan_has_balanced_classes_in_every_split():
    for split, count in (("train", 220), ("val", 22), ("test", 33)):
        labels = Counter(plan.label for plan in PLANS if plan.split == split)
        assert labels == dict.fromkeys(ANIMALS, count // len(ANIMALS))


def test_plan_order_differs_with_the_seed_and_is_not_alphabetical():
    order = [plan.label for plan in PLANS[:11]]
    other = [plan.label for plan in farm.plan(SETTINGS, None, seed=6)[:11]]
    assert sorted(order) == sorted(other) == sorted(ANIMALS)
    assert order != other and order != sorted(order)


def test_clips_of_the_plan_are_unique_and_splits_share_no_video():
    assert len({plan.clip_id for plan in PLANS}) == len(PLANS) == 275
    videos = [{p.video_id for p in PLANS if p.split == split} for split in ("train", "val", "test")]
    assert sum(map(len, videos)) == len(set.union(*videos))


def test_a_clip_depends_on_seed_and_index_alone():
    more = farm.plan(FarmDataset(train=400, picture_size=48), None, seed=5)
    for ours, theirs in zip(PLANS[:50], more, strict=False):
        assert ours == theirs


def test_plans_pickle_and_every_animal_has_a_voice():
    assert pickle.loads(pickle.dumps(PLANS[3])) == PLANS[3]
    assert set(VOICES) == set(ANIMALS) and len(ANIMALS) == 11


# -- the media ---------------------------------------------------------------------------------


@pytest.mark.parametrize("label", sorted(ANIMALS))
def test_media_have_the_promised_form(label: str):
    media = farm.load(one_of(label), SETTINGS)
    assert media.sample_rate == 24000 and media.frame_times is None
    assert media.sound.shape == (round(1.024 * 24000),) and media.sound.dtype == np.float32
    assert 0.05 < np.abs(media.sound).max() < 1.0
    assert -32 < 20 * np.log10(np.sqrt(np.mean(media.sound**2))) < -12
    (rgb,) = media.frames
    (depth,), (normals,) = (media.planes[name] for name in ("depth", "normals"))
    assert all(len(own) == 1 for own in media.planes.values())
    assert rgb.shape == (48, 48, 3) and rgb.dtype == np.uint8
    assert depth.shape == (48, 48) and depth.dtype == np.float32
    assert normals.shape == (48, 48, 3) and normals.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(normals, axis=2), 1.0, atol=1e-5)
    sky = np.isinf(depth)
    assert 0.05 < sky.mean() < 0.7 and depth.min() > 1.0
    assert (normals[sky] == [0.0, 0.0, 1.0]).all()
    # A surface that is seen looks at the camera.
    assert (np.einsum("hwi,hwi->hw", normals, camera_rays(48))[~sky] < 1e-6).all()


def camera_rays(size: int) -> np.ndarray:
    """Unit directions (S, S, 3) through the centres of the pixels, in camera axes."""
    rows, columns = np.indices((size, size)) + 0.5
    ray = np.stack([columns / size - 0.5, 0.5 - rows / size, np.full((size, size), -FOCAL)], axis=2)
    return ray / np.linalg.norm(ray, axis=2, keepdims=True)


def test_same_plan_gives_the_same_bytes_and_another_seed_does_not():
    first, again = farm.load(PLANS[4], SETTINGS), farm.load(PLANS[4], SETTINGS)
    other = farm.load(farm.plan(SETTINGS, None, seed=6)[4], SETTINGS)
    planes = [[media.frames, *media.planes.values()] for media in (first, again, other)]
    for parts in zip(*planes, strict=True):
        one, two, three = (own[0] for own in parts)
        assert one.tobytes() == two.tobytes() != three.tobytes()
    assert first.sound.tobytes() == again.sound.tobytes() != other.sound.tobytes()


def test_the_voice_does_not_depend_on_the_picture_size():
    large = farm.load(PLANS[0], FarmDataset(picture_size=64))
    assert large.sound.tobytes() == farm.load(PLANS[0], SETTINGS).sound.tobytes()


@pytest.mark.parametrize("seconds", [0.25, 3.0])
def test_sounds_of_other_lengths(seconds: float):
    for label in sorted(ANIMALS):
        sound = farm.voice(one_of(label), seconds)
        assert sound.shape == (round(seconds * SAMPLE_RATE),) and np.isfinite(sound).all()
        thirds = np.sqrt([np.mean(part**2) for part in np.array_split(sound, 3)])
        assert thirds.max() > 0.02


# -- geometry ----------------------------------------------------------------------------------


def test_depth_of_a_sphere_straight_ahead():
    size = 33
    _, depth, normals, subject = render(spheres((0.0, 1.0, -4.0, 0.5)), size)
    assert depth[16, 16] == pytest.approx(3.5, abs=1e-6)
    np.testing.assert_allclose(normals[16, 16], [0, 0, 1], atol=1e-6)
    # The outline is a circle where the ray's sine is radius over distance.
    ray = camera_rays(size)
    cosine = -ray[..., 2]
    inside = np.sqrt(1 - cosine**2) < 0.5 / 4.0
    np.testing.assert_array_equal(subject, inside)
    expected = 4.0 * cosine - np.sqrt(np.where(inside, 0.25 - 16.0 * (1 - cosine**2), 0.0))
    np.testing.assert_allclose(depth[inside], expected[inside], rtol=1e-6)
    np.testing.assert_array_equal(np.isinf(depth), (ray[..., 1] >= 0) & ~inside)
    np.testing.assert_allclose(depth[-1, 0], -1.0 / ray[-1, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(normals[-1, 0], [0, 1, 0], atol=1e-6)


def test_depth_of_an_animal_agrees_with_a_scalar_search():
    scene, size = farm.draw_scene(one_of("cow")), 48
    _, depth, *_ = render(scene, size)
    rng = np.random.default_rng(0)
    cosine, sine = np.cos(scene.pitch), np.sin(scene.pitch)
    num_bodies = 0
    for row, column in rng.integers(8, 40, (150, 2)):
        x, y, z = camera_rays(size)[row, column]
        ray = np.array([x, cosine * y + sine * z, cosine * z - sine * y])
        nearest = -scene.eye_height / ray[1] if ray[1] < 0 else np.inf
        floor = nearest
        for centre, shape in zip(scene.centres, scene.shapes, strict=True):
            # In the axes of the ellipsoid it is the unit sphere.
            start = np.linalg.solve(shape, np.array([0.0, scene.eye_height, 0.0]) - centre)
            step = np.linalg.solve(shape, ray)
            roots = np.roots([step @ step, 2.0 * start @ step, start @ start - 1.0])
            if np.isreal(roots).all() and roots.real.min() > 0:
                nearest = min(nearest, roots.real.min())
        num_bodies += nearest < floor
        assert depth[row, column] == pytest.approx(nearest, rel=1e-5)
    assert num_bodies > 20


@pytest.mark.parametrize("label", ["sheep", "pigeon"])
def test_how_many_rays_are_traced_at_once_changes_nothing(label, monkeypatch):
    scene = farm.draw_scene(one_of(label))
    whole = render(scene, 96)
    monkeypatch.setattr(farm_render, "BLOCK_RAYS", 1000)
    for got, expected in zip(render(scene, 96), whole, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_of_two_surfaces_at_one_distance_the_first_is_seen():
    scene = spheres((0.0, 1.0, -5.0, 0.4), (0.0, 1.0, -5.0, 0.4))
    _, what = farm_render.Tracer(scene).hit(np.array([[0.0, 0.0, -1.0], [0.0, -1.0, 0.0]]))
    assert what.tolist() == [0, farm_render.GROUND]


def test_normals_are_those_of_the_depth():
    _, depth, normals, _ = render(farm.draw_scene(one_of("pig")), 256)
    points = camera_rays(256) * depth[..., None]
    with np.errstate(invalid="ignore"):
        across = points[1:-1, 2:] - points[1:-1, :-2]
        along = points[:-2, 1:-1] - points[2:, 1:-1]
        measured = np.cross(across, along)
        measured /= np.linalg.norm(measured, axis=2, keepdims=True)
        agreement = np.einsum("hwi,hwi->hw", measured, normals[1:-1, 1:-1])
        near = (depth < 6.0)[1:-1, 1:-1]
        steep = np.abs(np.diff(depth, axis=0))[1:, 1:-1] > 0.2
    chosen = near & ~steep
    assert chosen.mean() > 0.3
    # Outlines and creases are the few pixels where differences mean nothing.
    assert np.mean(agreement[chosen] > 0.999) > 0.93


def test_shadow_darkens_the_ground_and_another_body():
    sun = (1.0, 1.0, 0.0)
    lit, *_ = render(spheres((50.0, 1.0, -6.0, 0.1), sun=sun), 64)
    cast, depth, *_ = render(spheres((0.0, 0.8, -6.0, 0.3), sun=sun), 64)
    # The centre's shadow falls 0.8 to the left of the sphere's foot.
    shadow = pixel_of(np.array([-0.8, 0.0, -6.0]))
    assert depth[shadow] == pytest.approx(np.sqrt(0.8**2 + 1.0 + 36.0), rel=0.02)
    assert cast[shadow].sum() < 0.6 * lit[shadow].sum()
    beside = pixel_of(np.array([0.8, 0.0, -6.0]))
    assert (cast[beside] == lit[beside]).all()
    # A ball between the sun and another one.
    alone, *_ = render(spheres((0.0, 0.8, -6.0, 0.3), (9.0, 9.0, -6.0, 0.3), sun=sun), 64)
    both, *_ = render(spheres((0.0, 0.8, -6.0, 0.3), (1.0, 1.8, -6.0, 0.3), sun=sun), 64)
    top = pixel_of(np.array([0.15, 0.95, -5.8]))
    assert both[top].sum() < 0.7 * alone[top].sum()


def pixel_of(point: np.ndarray) -> tuple[int, int]:
    """Row and column of a point in the world, for 64 pixels and a level camera at a height of 1."""
    column = 64 * (0.5 + FOCAL * point[0] / -point[2])
    row = 64 * (0.5 - FOCAL * (point[1] - 1.0) / -point[2])
    return int(row), int(column)


def test_a_larger_or_nearer_animal_fills_more_of_the_picture():
    def share(plan: ClipPlan) -> float:
        scene = farm.draw_scene(plan)
        with_body = render(scene, 64)[1]
        away = dataclasses.replace(scene, centres=scene.centres + [0.0, 0.0, 1e4])
        return float(np.mean(with_body != render(away, 64)[1]))

    for label in ("cat", "horse", "sheep"):
        plan = one_of(label)
        base = share(changed(plan, size_m=0.9, distance_m=3.6))
        assert share(changed(plan, size_m=1.25, distance_m=3.6)) > 1.4 * base
        assert share(changed(plan, size_m=0.9, distance_m=4.7)) < 0.8 * base


# -- voices ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "low", "high"),
    [("coyote", 250, 1500), ("pigeon", 150, 900), ("cow", 50, 300), ("cat", 250, 1400)],
)
def test_a_larger_body_has_a_lower_pitch(label: str, low: float, high: float):
    ratios = []
    for plan in [plan for plan in PLANS if plan.label == label][:16]:
        small = pitch(farm.voice(changed(plan, size_m=0.88), 1.024), low, high)
        large = pitch(farm.voice(changed(plan, size_m=1.25), 1.024), low, high)
        ratios.append(small / large)
    # The loudest moment may fall on another part of the contour; the middle clip tells.
    assert np.median(ratios) == pytest.approx((1.25 / 0.88) ** 1.3, rel=0.06)


def test_a_larger_body_has_lower_formants():
    """The noisy voices have no clear pitch; their spectrum as a whole moves down."""
    for label in ("lion", "pig", "dog", "chicken"):
        centres = []
        for size in (0.88, 1.25):
            sounds = [farm.voice(changed(p, size_m=size), 1.024) for p in PLANS if p.label == label]
            frequency, power = spectrum(np.concatenate(sounds))
            centres.append(np.sum(frequency * power) / np.sum(power))
        assert centres[1] < 0.9 * centres[0]


@pytest.mark.parametrize("label", sorted(ANIMALS))
def test_distance_lowers_the_level(label: str):
    plan = one_of(label)
    near, far = (farm.voice(changed(plan, distance_m=metres), 1.024) for metres in DISTANCES)
    drop = 10 * np.log10(np.mean(near**2) / np.mean(far**2))
    law = 40 * np.log10(DISTANCES[1] / DISTANCES[0])
    # A loud voice is a little compressed.
    assert 0.75 * law < drop < law + 0.1


def test_classes_are_linearly_separable_by_ear():
    """From band levels: it would fall to 1/11 if voices were shuffled among the classes."""

    def features(plan: ClipPlan) -> np.ndarray:
        sound = farm.voice(plan, SETTINGS.seconds)
        windows = np.lib.stride_tricks.sliding_window_view(sound, 1024)[::512] * np.hanning(1024)
        power = np.abs(np.fft.rfft(windows)) ** 2
        edges = np.unique(np.geomspace(3, 512, 22).astype(int))
        bands = np.log(np.add.reduceat(power, edges[:-1], axis=1) + 1e-3)
        loud = np.sort(bands, axis=0)[-10:].mean(axis=0)
        return np.concatenate(
            [loud, bands.std(axis=0), np.abs(np.diff(bands, axis=0)).mean(axis=0)]
        )

    train = [plan for plan in PLANS if plan.split == "train"]
    test = [plan for plan in PLANS if plan.split != "train"]
    known, heard = (np.array([features(plan) for plan in plans]) for plans in (train, test))
    machine = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    machine.fit(known, [plan.label for plan in train])
    assert machine.score(heard, [plan.label for plan in test]) > 0.93
