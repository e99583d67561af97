import { expect, test } from "vitest";
import { lineProgress } from "../../../gpu-backend/training/progress.ts";

test("off a terminal: a line every ten seconds with the time left, and one at the end", () => {
  let timeMs = 0;
  const lines: string[] = [];
  const progress = lineProgress(
    (line) => lines.push(line),
    () => timeMs,
  );
  progress.stage("training", 100);
  for (let step = 1; step <= 100; step++) {
    timeMs += 250;
    progress.advance(step, `loss ${step}`);
  }
  expect(lines).toEqual([
    "training: 40/100, 15 s left loss 40",
    "training: 80/100, 5 s left loss 80",
    "training: 100/100, 0 s left loss 100",
  ]);
});

test("a resumed stage estimates from its own pace, not from what was there", () => {
  let timeMs = 0;
  const lines: string[] = [];
  const progress = lineProgress(
    (line) => lines.push(line),
    () => timeMs,
  );
  progress.stage("training", 1000);
  timeMs += 10_000;
  progress.advance(901);
  expect(lines).toEqual(["training: 901/1000, 990 s left"]);
});
