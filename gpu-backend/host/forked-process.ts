/** A child process that never outlives the backend. */
import { type ChildProcess, fork, type Serializable } from "node:child_process";
import { settlesWithin } from "../../shared/settles-within.ts";

/** A killed process may wait for a device or a disk. */
export const stopMs = 2000;

export interface EndCause {
  /** How the process ended, without request data, such as "was ended by SIGSEGV". */
  how: string;
  /** For the log only, because it may contain request data. */
  error: Error | null;
}

interface ForkedProcessParts<Received> {
  script: URL;
  /** Other users of the machine can see the argument. */
  argument: string;
  environment: NodeJS.ProcessEnv;
  onMessage(message: Received): void;
  /** Called once, after the last message, even if the process could not be started. */
  onEnd(cause: EndCause): void;
}

export class ForkedProcess<Sent extends object, Received> {
  readonly #child: ChildProcess | null;
  readonly #ended = Promise.withResolvers<void>();
  readonly #killAtExit = () => void this.#child?.kill("SIGKILL");
  readonly #parts: ForkedProcessParts<Received>;
  #cause: EndCause | null = null;
  #hasEnded = false;

  constructor(parts: ForkedProcessParts<Received>) {
    this.#parts = parts;
    this.#child = this.#fork();
    if (!this.#child) return;
    process.on("exit", this.#killAtExit);
    this.#child.on("message", (message) => parts.onMessage(message as Received));
    this.#child.on("error", (error) => {
      this.blame(`cannot be started: ${error.message}`, error);
      // A process that could not be created, for example for lack of file descriptors, emits no "close".
      if (this.pid === undefined) this.#end("cannot be started");
    });
    // Messages may still follow "exit", but not "close".
    this.#child.on("close", (code, signal) => this.#end(signal ? `was ended by ${signal}` : `ended with code ${code}`));
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  get cause(): EndCause | null {
    return this.#cause;
  }

  /** Does nothing if the process has ended. `onEnd` then follows. */
  send(message: Sent): void {
    if (this.#child?.connected) this.#child.send(message as Serializable, () => {});
  }

  /** Lets the backend exit although the process runs. */
  unref(): void {
    this.#child?.unref();
    this.#child?.channel?.unref();
  }

  /** Sets the cause of the process's end. An earlier cause is kept. */
  blame(how: string, error: Error | null): void {
    this.#cause ??= { how, error };
  }

  kill(how: string): void {
    this.blame(how, null);
    this.#child?.kill("SIGKILL");
  }

  /** Resolves when the process has ended, or after `stopMs`. */
  async close(): Promise<void> {
    this.kill("was closed");
    await settlesWithin(this.#ended.promise, stopMs);
  }

  /** Returns null if fork itself throws, for example for lack of memory. */
  #fork(): ChildProcess | null {
    const { script, argument, environment } = this.#parts;
    try {
      // Only the backend itself writes to stdout.
      const stdio = ["ignore", 2, 2, "ipc"] as ("ignore" | "ipc" | number)[];
      return fork(script, [argument], { env: environment, serialization: "advanced", stdio });
    } catch (thrown) {
      const error = thrown instanceof Error ? thrown : new Error(String(thrown));
      this.blame(`cannot be started: ${error.message}`, error);
      setImmediate(() => this.#end("cannot be started"));
      return null;
    }
  }

  #end(exit: string): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    process.off("exit", this.#killAtExit);
    this.blame(exit, null);
    this.#parts.onEnd(this.#cause!);
    this.#ended.resolve();
  }
}
