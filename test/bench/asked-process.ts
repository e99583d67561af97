/** A child process for measurements. It answers one question at a time, and ends with its parent. */
import { type ChildProcess, fork } from "node:child_process";

export class AskedProcess {
  readonly #child: ChildProcess;
  #written = "";

  /** `script` calls `answerQuestions`, or sends one message by itself. */
  constructor(script: URL, ...args: string[]) {
    this.#child = fork(script, args, {
      execArgv: ["--expose-gc"],
      stdio: ["ignore", "ignore", "pipe", "ipc"],
    });
    this.#child.stderr!.on("data", (chunk) => {
      this.#written += chunk;
    });
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** Resolves with the first message of the process. Throws an Error if the process ends before. */
  ready<T>(): Promise<T> {
    return this.#answer<T>();
  }

  ask<T>(question: object): Promise<T> {
    this.#child.send(question);
    return this.#answer<T>();
  }

  end(): void {
    if (this.#child.connected) this.#child.disconnect();
  }

  #answer<T>(): Promise<T> {
    return new Promise((resolve, reject) => {
      const ended = (code: number | null, signal: string | null) => {
        this.#child.off("message", heard);
        const lines = this.#written.trim().split("\n");
        const reason = lines.find((line) => /^\w*Error\b/.test(line)) ?? lines.at(-1);
        reject(new Error(`its process ended with ${signal ?? code}: ${reason}`));
      };
      const heard = (message: unknown) => {
        this.#child.off("close", ended);
        resolve(message as T);
      };
      this.#child.once("message", heard);
      this.#child.once("close", ended);
    });
  }
}

/** Runs in the child process: sends `ready`, then answers questions until the parent is gone. */
export function answerQuestions<Question>(ready: unknown, answer: (question: Question) => Promise<unknown>): void {
  process.on("disconnect", () => process.exit());
  process.on("message", (question: Question) => {
    // Collects the last answer's garbage outside of the measured time.
    globalThis.gc?.();
    answer(question).then(
      (answered) => process.send!(answered),
      (error: unknown) => {
        console.error(error);
        process.exit(1);
      },
    );
  });
  process.send!(ready);
}
