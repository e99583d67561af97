import cliProgress, { SingleBar } from "cli-progress";
import { exitCodes, Interrupted, onStopRequest } from "../command-line.ts";

export interface Progress {
  /** Ends the previous stage, too. */
  stage(name: string, total: number): void;
  /** `remark` is short, such as the loss. */
  advance(done: number, remark?: string): void;
  note(line: string): void;
  end(): void;
}

/** Writes to stderr: a bar on a terminal, else a line every ten seconds. */
export function commandProgress(): Progress {
  const stream = process.stderr;
  let current = { name: "", total: 0, done: 0 };
  let bar: SingleBar | null = null;
  const begin = () => {
    const format = `${current.name.padEnd(14)} {bar} {percentage}%  {value}/{total}  left {eta_formatted}  {remark}`;
    const signs = { barCompleteChar: "█", barIncompleteChar: "░" };
    const output = { stream, noTTYOutput: true, notTTYSchedule: 10_000 };
    bar = new SingleBar({ format, ...signs, ...output, etaBuffer: 50, formatTime: timeLeft });
    bar.start(current.total, current.done, { remark: "" });
    return bar;
  };
  const end = () => {
    bar?.stop();
    bar = null;
  };
  // A bar hides the terminal's cursor until the bar ends.
  if (stream.isTTY) process.once("exit", end);
  return {
    stage(name, total) {
      end();
      current = { name, total, done: 0 };
      begin();
    },
    advance(done, remark = "") {
      current.done = done;
      (bar ?? begin()).update(done, { remark });
    },
    note(line) {
      end();
      stream.write(`${line}\n`);
    },
    end,
  };
}

/** Formats seconds. Until two values are known, cli-progress passes a string. */
const timeLeft: typeof cliProgress.Format.TimeFormat = (seconds, ...rest) =>
  Number.isFinite(seconds) ? cliProgress.Format.TimeFormat(seconds, ...rest) : "?";

/** Aborts with `Interrupted`, so that work can be saved. A second request exits. `now` is in milliseconds. */
export function interruptionSignal(now: () => number): AbortSignal {
  const interruption = new AbortController();
  onStopRequest(now, () => {
    if (interruption.signal.aborted) process.exit(exitCodes.interrupted);
    interruption.abort(new Interrupted("interrupted; the same command continues from here"));
  });
  return interruption.signal;
}
