/** Starts what serves one set of artifacts: an engine over its folder, and a fitter for tenants' adapters. */

import type { EngineInfo, EngineSettings } from "../../engine/messages.ts";
import { EngineClient, type EngineClientParts } from "../client.ts";
import { FitClient } from "../own-adapters/fit-client.ts";
import type { ServingSet } from "./serving-sets.ts";

export interface StartedSet extends ServingSet {
  info: EngineInfo;
}

/** Resolves once the engine has generated a token; rejects if the folder is invalid or the engine does not start in time. */
export async function startSet(settings: EngineSettings, parts: EngineClientParts): Promise<StartedSet> {
  const { modelDirectory, artifactsDirectory } = settings;
  const engine = new EngineClient(settings, parts);
  try {
    const info = await engine.ready;
    const fitter = new FitClient({ modelDirectory, artifactsDirectory }, { environment: parts.environment });
    return {
      ...{ info, engine, fitter },
      async close(limitMs) {
        await engine.close(limitMs);
        await fitter.close();
      },
    };
  } catch (error) {
    await engine.close(0);
    throw error;
  }
}
