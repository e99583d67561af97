/** Ends what tests start. */
import { afterAll, onTestFinished, TestRunner } from "vitest";
import { endWithProcess } from "./process-end.ts";

/** Calls `end` after the running test, or after the file's tests outside of a test; at the latest when this process ends. */
export function atEnd(end: () => unknown): void {
  const cancel = endWithProcess(end);
  const awaited = async () => {
    cancel();
    await end();
  };
  if (TestRunner.getCurrentTest()) onTestFinished(awaited);
  else afterAll(awaited);
}

/** Stops `started` after the running test, or after the file's tests outside of a test. */
export function stopAtEnd<T extends { stop(): unknown }>(started: T): T {
  atEnd(() => started.stop());
  return started;
}
