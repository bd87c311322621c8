"""The table and the picture of docs/distillation.md: a teacher of digits and its students at the same numbers of steps.

    python scripts/distill_digits_table.py RUN RUN_distilled
"""

import argparse
from pathlib import Path

import numpy as np

from ddpm_ms import load_diffusion, runtime, visual
from ddpm_ms.config import RuntimeConfig
from ddpm_ms.evaluation import classifier_judge

IMAGES, PICTURED = 1024, (4, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare a teacher of digits with its students.")
    parser.add_argument("teacher", type=Path)
    parser.add_argument("students", type=Path, help="directory of steps_0064, steps_0032, ...")
    arguments = parser.parse_args()
    runtime.setup(RuntimeConfig(device="CPU"))
    labels = np.arange(IMAGES) % 10
    runs = sorted(arguments.students.glob("steps_*"), reverse=True)
    teacher, trained = load_diffusion(arguments.teacher)
    judge = classifier_judge(trained.config.data)

    def draw(diffusion, steps):
        return diffusion.sample(IMAGES, seed=0, sampler="ddim", steps=steps)

    def columns(images):
        report = judge.report(images, labels)
        return report.distance, ((images - goal) ** 2).mean() ** 0.5, 100 * report.confident, 100 * report.agree

    goal = draw(teacher, 2 * load_diffusion(runs[0])[1].config.distillation.steps)
    pictured = [goal]
    print(judge.report(goal), "", sep="\n")
    print("| steps | Frechet distance | from the teacher's longest way | recognised with p >= 0.9 | as the class asked for |")
    print("| --- | --- | --- | --- | --- |")
    for run in runs:
        student, checkpoint = load_diffusion(run)
        steps = checkpoint.config.distillation.steps
        both = draw(teacher, steps), draw(student, steps)
        if steps in PICTURED:
            pictured += both
        cells = [f"{a:{form}} / **{b:{form}}**" for a, b, form in zip(*map(columns, both), (".2f", ".3f", ".1f", ".1f"))]
        print(f"| {steps} | {cells[0]} | {cells[1]} | {cells[2]} % | {cells[3]} % |")
    picture = visual.to_grid(np.concatenate([images[:10] for images in pictured]), columns=10)
    picture.save(arguments.students / "comparison.png")
    print(f"\n{arguments.students / 'comparison.png'}: rows of the same noise, the teacher at its longest way, then teacher and "
          f"student at {' and '.join(map(str, PICTURED))} steps")


if __name__ == "__main__":
    main()
