/**
 * Stands in for an engine's process. `starts`: how each process of a client starts; the last entry repeats. `then`: how a process answers a
 * request.
 */
import { appendFileSync, readFileSync } from "node:fs";

export type Fault = "throw" | "exit" | "SIGSEGV" | "SIGABRT" | "wait";
export interface Script {
  /** Each process appends its id as a line. */
  pidFile: string;
  starts: ("ready" | "other-artifacts" | Fault)[];
  then: "answer" | "progress" | "done" | Fault;
}

process.once("message", ({ settings }: { settings: Script }) => {
  const { pidFile, starts, then } = settings;
  const earlier = readFileSync(pidFile, "utf8").split("\n").length - 1;
  appendFileSync(pidFile, `${process.pid}\n`);
  const start = starts[Math.min(earlier, starts.length - 1)];
  if (start !== "ready" && start !== "other-artifacts") fail(start);
  process.on("message", (message: { type: string; sequences: { id: string }[] }) => {
    if (message.type !== "submit") return;
    const report = { phase: "decode", ms: 1, sequences: 1, tokens: 1, sampledTokens: 1 };
    const done = message.sequences.map(({ id }) => ({ type: "done", id, finishReason: "stop" }));
    if (then === "progress") {
      process.send!({ type: "progress" });
      process.send!({ type: "frames", frames: [], report: null, stats: {} });
    } else if (then !== "answer" && then !== "done") fail(then);
    else process.send!({ type: "frames", frames: then === "done" ? done : [], report, stats: {} });
  });
  const manifestHash = (start === "ready" ? "a" : "b").repeat(64);
  process.send!({ type: "ready", info: { manifestHash, manifest: { centroids: [] }, environment: process.env } });
});
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => {});
process.once("disconnect", () => process.exit());

function fail(fault: Fault): void {
  if (fault === "throw")
    process.send!({ type: "failed", message: "the step failed", stack: "" }, () => process.exit(1));
  else if (fault === "exit") process.exit(3);
  // Blocks as native code does: the process handles no message and no signal.
  else if (fault === "wait") Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  else process.kill(process.pid, fault);
}
