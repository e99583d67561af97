/** Common parts of all `chameleon` commands: help, the version, and one sentence and an exit code for every failure. */
import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { Command, type CommanderError, InvalidArgumentError } from "commander";

const { version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as {
  version: string;
};

export const exitCodes = { failed: 1, badUsage: 2, interrupted: 130, brokenPipe: 141 } as const;

/** Thrown after Ctrl-C. The message tells how to resume. */
export class Interrupted extends Error {}

/** A command `chameleon NAME`. Its help shows the `examples`, one a line, and then the `notes`. */
export function createCommand(name: string, description: string, examples: readonly string[], notes = ""): Command {
  for (const stream of [process.stdout, process.stderr]) stream.on("error", endOfReader);
  const shown = examples.map((example) => `  $ ${example}`).join("\n");
  return new Command(`chameleon ${name}`)
    .description(description)
    .version(version, "--version", "print the version")
    .configureOutput({ outputError: (text, write) => write(`chameleon ${name}: ${inOneSentence(text)}\n`) })
    .exitOverride(({ exitCode }: CommanderError) => process.exit(exitCode === 0 ? 0 : exitCodes.badUsage))
    .addHelpText("after", `\nExample${examples.length > 1 ? "s" : ""}:\n${shown}${notes && `\n\n${notes}`}`);
}

/** Runs the chosen action. Any failure ends the process with one sentence. */
export async function runCommand(command: Command): Promise<void> {
  process.on("uncaughtException", (error) => fail(command, error));
  const names = command.commands.map((one) => one.name());
  if (names.length > 0 && process.argv.length < 3) command.error(`name one of its commands: ${names.join(", ")}`);
  await command.parseAsync();
}

export function parsedOptions<Options extends object>(command: Command): Options {
  process.on("uncaughtException", (error) => fail(command, error));
  return command.parse().opts<Options>();
}

/** Signals within this many milliseconds count as one: infra/bootstrap.mjs may pass on a signal that this process received directly. */
const sameRequestMs = 500;

/** Calls `stop` at each request to end this process. `now` is a clock in milliseconds. */
export function onStopRequest(now: () => number, stop: (signal: NodeJS.Signals) => void): void {
  let lastMs = Number.NEGATIVE_INFINITY;
  const request = (signal: NodeJS.Signals) => {
    const nowMs = now();
    if (nowMs - lastMs < sameRequestMs) return;
    lastMs = nowMs;
    stop(signal);
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, request);
}

function inOneSentence(text: string): string {
  return text
    .trim()
    .replace(/^error: /, "")
    .replace(" is invalid. ", " is invalid: ")
    .replace(/\.?\n\(Did you mean (.*)\?\)$/, "; did you mean $1?");
}

function fail(command: Command, error: unknown): never {
  const message = error instanceof Error ? error.message : String(error);
  process.stderr.write(`${command.name()}: ${message}\n`);
  if (error instanceof InvalidArgumentError) process.exit(exitCodes.badUsage);
  process.exit(error instanceof Interrupted ? exitCodes.interrupted : exitCodes.failed);
}

/** Ends without a message when the reader has closed the pipe, as in `chameleon keys list | head -1`. */
function endOfReader({ code }: NodeJS.ErrnoException): void {
  process.exit(code === "EPIPE" ? exitCodes.brokenPipe : exitCodes.failed);
}

/** Parses a whole number of 1 or more. Throws InvalidArgumentError. */
export function count(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value) || value < 1) {
    throw new InvalidArgumentError("must be a whole number of 1 or more");
  }
  return value;
}

export function collected(text: string, before: string[] = []): string[] {
  return [...before, text];
}

export async function readText(file: string): Promise<string> {
  return (await readBytes(file)).toString("utf8");
}

export function readBytes(file: string): Promise<Buffer> {
  return readFile(file).catch((cause: NodeJS.ErrnoException) => {
    const why = cause.code === "EISDIR" ? "it is a folder; name files of it" : cause.message;
    throw new Error(`${file} cannot be read: ${why}`, { cause });
  });
}

/** Parses an http(s) URL and removes slashes at its end. Throws InvalidArgumentError. */
export function httpUrl(text: string): string {
  if (!/^https?:$/.test(URL.parse(text)?.protocol ?? "")) throw new InvalidArgumentError("must be an http(s) URL");
  return text.replace(/\/+$/, "");
}
