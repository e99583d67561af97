/** Puts one set of artifacts to work: an engine over its folder, and what fits tenants' adapters to it. */
import { EngineClient, type EngineObserver } from "../client.ts";
import { FitClient } from "../instant/fit-client.ts";
import type { EngineInfo, EngineSettings } from "../messages.ts";
import type { ServingSet } from "./serving-sets.ts";

export interface StartedSet extends ServingSet {
  info: EngineInfo;
}

/** Resolves once a token was generated; rejects where the folder, or the engine over it, is no good. */
export async function startSet(settings: EngineSettings, observer: EngineObserver): Promise<StartedSet> {
  const { modelDirectory, artifactsDirectory } = settings;
  const engine = new EngineClient(settings, observer);
  const fitter = new FitClient({ modelDirectory, artifactsDirectory });
  return {
    info: await engine.ready,
    engine,
    fitter,
    async close(limitMs) {
      await engine.close(limitMs);
      await fitter.close();
    },
  };
}
