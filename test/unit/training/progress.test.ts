import { expect, it, vi } from "vitest";
import { commandProgress } from "../../../gpu-backend/training/progress.ts";

it("shows a stage from its start, without a time before a part is done", () => {
  const lines: string[] = [];
  using _stderr = vi.spyOn(process.stderr, "write").mockImplementation((line) => lines.push(String(line)) > 0);
  const progress = commandProgress();
  progress.stage("kinds", 5);
  progress.end();
  expect(lines.join("")).toMatch(/0\/5.*left \?/);
});
