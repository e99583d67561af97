/** Progress of long commands (a bar on a terminal, plain lines elsewhere), and their interruption. */
import { SingleBar } from "cli-progress";
import { exitCodes, Interrupted, onStopRequest } from "../command-line.ts";

export interface Progress {
  /** Begins a stage of `total` units; the one before is over. */
  stage(name: string, total: number): void;
  /** Units done so far in this stage, and a short remark such as the loss. */
  advance(done: number, remark?: string): void;
  /** Prints a permanent line. */
  note(line: string): void;
  end(): void;
}

const secondsBetweenLines = 10;

/** Progress of a command on its stderr, until the process exits. `now` is in milliseconds. */
export function commandProgress(now: () => number): Progress {
  const output = process.stderr;
  const progress = output.isTTY ? barProgress(output) : lineProgress((line) => output.write(`${line}\n`), now);
  process.once("exit", () => progress.end());
  return progress;
}

/**
 * Aborted with an `Interrupted` when this process is asked to end: the command finishes and saves its current unit. A second
 * request ends the process at once. `now` is in milliseconds.
 */
export function interruptionSignal(now: () => number): AbortSignal {
  const interruption = new AbortController();
  onStopRequest(now, () => {
    if (interruption.signal.aborted) process.exit(exitCodes.interrupted);
    interruption.abort(new Interrupted("interrupted; the same command continues from here"));
  });
  return interruption.signal;
}

function barProgress(output: NodeJS.WriteStream): Progress {
  let bar: SingleBar | null = null;
  const end = () => {
    bar?.stop();
    bar = null;
  };
  return {
    stage(name, total) {
      end();
      bar = new SingleBar({
        stream: output,
        format: `${name.padEnd(14)} {bar} {percentage}%  {value}/{total}  left {eta_formatted}  {remark}`,
        barCompleteChar: "█",
        barIncompleteChar: "░",
        etaBuffer: 50,
      });
      bar.start(total, 0, { remark: "" });
    },
    advance: (done, remark = "") => bar?.update(done, { remark }),
    note(line) {
      end();
      output.write(`${line}\n`);
    },
    end,
  };
}

/** Plain lines, at most one in ten seconds and one at a stage's end. `now` is in milliseconds. */
export function lineProgress(write: (line: string) => void, now: () => number): Progress {
  let current = { name: "", total: 0, startedMs: 0, lastLineMs: 0, firstDone: 0 };
  return {
    stage(name, total) {
      current = { name, total, startedMs: now(), lastLineMs: now(), firstDone: -1 };
    },
    advance(done, remark = "") {
      const time = now();
      if (current.firstDone < 0) current.firstDone = done - 1;
      if (done < current.total && time - current.lastLineMs < secondsBetweenLines * 1000) return;
      current.lastLineMs = time;
      const secondsPerUnit = (time - current.startedMs) / 1000 / Math.max(1, done - current.firstDone);
      const left = Math.round(secondsPerUnit * (current.total - done));
      write(`${current.name}: ${done}/${current.total}, ${left} s left ${remark}`.trimEnd());
    },
    note: write,
    end: () => {},
  };
}
