/** One stack for all files of a test project that do not disturb each other. */
import { writeFileSync } from "node:fs";
import { inject } from "vitest";
import type { TestProject } from "vitest/node";
import { recordFile, stateFolders } from "../../infra/workerd/config.ts";
import { keyEntry } from "./key-records.ts";
import { type RunningStack, runningStack, type StackPlace, startStack } from "./stack.ts";

declare module "vitest" {
  interface ProvidedContext {
    stack: StackPlace;
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const { edge, key, state, backends, stop } = await startStack();
  project.provide("stack", { edge, key, state, backends });
  return stop;
}

/** The stack with a key of `tenant`. Without `tenant`: with the local key. */
export async function sharedStack(tenant?: string): Promise<RunningStack> {
  const place = inject("stack");
  if (tenant === undefined) return runningStack(place);
  const key = `sk-chameleon-${tenant}`;
  const [name, record] = await keyEntry(key, tenant);
  writeFileSync(recordFile(stateFolders.namespace(place.state, "TENANTS"), name), record);
  return runningStack({ ...place, key });
}
