/** How commands handle signals: Ctrl-C may send a signal twice at once, which counts as one request to stop. */
import { EventEmitter } from "node:events";
import { expect, onTestFinished, test, vi } from "vitest";
import { onStopRequest } from "../../../gpu-backend/command-line.ts";

test("a signal that comes twice at once is one request, a later one is a second", () => {
  const signals = new EventEmitter();
  vi.spyOn(process, "on").mockImplementation((name, listener) => {
    signals.on(name, listener);
    return process;
  });
  onTestFinished(() => {
    vi.restoreAllMocks();
  });
  const stop = vi.fn();
  let nowMs = 7;
  onStopRequest(() => nowMs, stop);
  signals.emit("SIGINT", "SIGINT");
  signals.emit("SIGINT", "SIGINT");
  expect(stop.mock.calls).toEqual([["SIGINT"]]);
  nowMs += 1000;
  signals.emit("SIGTERM", "SIGTERM");
  expect(stop.mock.calls).toEqual([["SIGINT"], ["SIGTERM"]]);
});
