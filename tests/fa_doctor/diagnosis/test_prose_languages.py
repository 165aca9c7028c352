"""What people tell in their own language, without any error message: four languages, told and merely mentioned."""

from __future__ import annotations

import pytest

from fa_doctor.diagnosis.explain import explain_text

CARD = "AMD Radeon RX 7900 XTX, Linux\n"


@pytest.mark.parametrize(
    ("told", "cause"),
    [
        ("每次启动以后首次出图要等好几分钟，之后就快了。", "slow-first-run"),
        ("モデルを読み込んだあと、初回の推論に5分かかります。", "slow-first-run"),
        ("Nach jedem Neustart dauert das erste Bild mehrere Minuten.", "slow-first-run"),
        ("После перезапуска первая картинка считается десять минут.", "slow-first-run"),
        ("没有任何报错，可是生成的图片全黑。", "numerics-wrong"),
        ("エラーは出ませんが、画像がすべて真っ黒です。", "numerics-wrong"),
        ("Kein Fehler im Log, aber die Bilder sind alle schwarz.", "numerics-wrong"),
        ("Ошибок нет, но все изображения чёрные, вот такие чёрные квадраты.", "numerics-wrong"),
        ("更新节点以后torch被换成CUDA版了。", "torch-not-rocm"),
        ("拡張を入れたらtorchがCUDA版に置き換わりました。", "torch-not-rocm"),
        ("Ein Paket hat torch durch die CUDA-Version ersetzt.", "torch-not-rocm"),
        ("Установщик заменил torch на версию с CUDA.", "torch-not-rocm"),
        ("双卡张量并行启动后卡死，单卡没问题。", "rccl-multi-gpu"),
        ("テンソル並列にすると起動の途中で固まります。", "rccl-multi-gpu"),
        ("Mit zwei GPUs bleibt das Training nach dem Start hängen, es bleibt einfach stehen.", "rccl-multi-gpu"),
        ("На двух видеокартах обучение зависает, на одной работает.", "rccl-multi-gpu"),
        ("分辨率一高就爆显存。", "vram-out-of-memory"),
        ("Für dieses Modell reicht der VRAM nicht.", "vram-out-of-memory"),
        ("Не хватает видеопамяти для этой модели.", "vram-out-of-memory"),
    ],
)
def test_a_failure_told_in_another_language_is_named(told: str, cause: str) -> None:
    found = explain_text(CARD + told + "\n")
    assert found.candidates, told
    assert found.candidates[0].cause == cause
    assert any(line.number == 2 for line in found.candidates[0].lines)


@pytest.mark.parametrize(
    "told",
    [
        "第一次用 ComfyUI，请问模型放在哪个文件夹？",
        "首次启动不慢，一切正常。",
        "生成的人物手指总是画错，换了模型也不行。",
        "显存有 24GB，请问可以跑多大的模型？",
        "初回の設定について教えてください。",
        "背景が真っ黒な部屋の絵を描きたいです。",
        "Das erste Bild ist sehr schön geworden, danke!",
        "Wie mache ich ein Bild mit einer schwarzen Katze?",
        "Первая модель понравилась больше, чем вторая.",
        "Нарисуй чёрного кота на белом фоне.",
        "安装了两张显卡，都正常工作。",
    ],
)
def test_the_same_words_without_a_failure_are_no_diagnosis(told: str) -> None:
    assert explain_text(CARD + told + "\n").confident is None


def test_english_names_are_found_where_no_blank_stands_beside_them() -> None:
    found = explain_text("我的7900XTX报错OutOfResources: out of resource: shared memory，请问怎么办\n")
    assert found.candidates[0].cause == "lds-out-of-resources"


@pytest.mark.parametrize(
    "told",
    ["显卡检测不到", "检测不到gpu", "GPUが認識されません", "Die Grafikkarte wird nicht erkannt", "torch не видит GPU"],
)
def test_a_gpu_that_is_not_seen_is_a_symptom_in_any_language(told: str) -> None:
    assert "no-hip-gpus" in explain_text(f"{CARD}{told}\n").symptoms
