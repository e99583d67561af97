/** Puts one set of artifacts to work: an engine over its folder, and what fits tenants' adapters to it. */

import { settlesWithin } from "../../../shared/settles-within.ts";
import { EngineClient, type EngineClientParts } from "../client.ts";
import { FitClient } from "../instant/fit-client.ts";
import type { EngineInfo, EngineSettings } from "../messages.ts";
import type { ServingSet } from "./serving-sets.ts";

export interface StartedSet extends ServingSet {
  info: EngineInfo;
}

/** Milliseconds for an engine to load its model and generate a token; a large model is read from a slow disk in minutes. */
const startMs = 600_000;

/** Resolves once a token was generated; rejects where the folder, or the engine over it, is no good, or does not start in time. */
export async function startSet(settings: EngineSettings, parts: EngineClientParts): Promise<StartedSet> {
  const { modelDirectory, artifactsDirectory } = settings;
  const engine = new EngineClient(settings, parts);
  if (!(await settlesWithin(engine.ready, startMs))) {
    await engine.close(0);
    throw new Error(`the engine did not start within ${startMs} ms`);
  }
  const fitter = new FitClient({ modelDirectory, artifactsDirectory });
  return {
    info: await engine.ready,
    engine,
    fitter,
    async close(limitMs) {
      const ended = [await engine.close(limitMs), await fitter.close()];
      return ended.every(Boolean);
    },
  };
}
