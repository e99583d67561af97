/** Ends what tests start. */
import { afterAll, onTestFinished, TestRunner } from "vitest";

/** Calls `end` after the running test, or after the file's tests if none runs yet. */
export function atEnd(end: () => unknown): void {
  const awaited = async () => void (await end());
  if (TestRunner.getCurrentTest()) onTestFinished(awaited);
  else afterAll(awaited);
}

/** Stops `started` after the running test, or after the file's tests if none runs yet. Returns it. */
export function stopAtEnd<T extends { stop(): unknown }>(started: T): T {
  atEnd(() => started.stop());
  return started;
}
