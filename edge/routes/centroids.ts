/** GET /v1/centroids: what each centroid stands for and what its adapter was measured to gain. */
import type { Handler } from "hono";
import { adapterIdentity } from "../../shared/artifacts/manifest.ts";
import { sha256Hex } from "../../shared/sha256.ts";
import type { AppEnvironment, Dependencies } from "../dependencies.ts";

export function listCentroids(dependencies: Dependencies): Handler<AppEnvironment> {
  return async (c) => {
    const { manifest, manifestHash } = await dependencies.artifacts();
    const data = await Promise.all(
      manifest.centroids.map(async (centroid) => ({
        id: centroid.id,
        object: "centroid",
        model: `${manifest.model.servedAs}:${centroid.id}`,
        label: centroid.label,
        size: centroid.size,
        position: centroid.position,
        gain: centroid.gain,
        scale: centroid.scale,
        /** The adapter did not help when measured, so the base is served. */
        auto_off: centroid.scale === 0,
        /** Strength of what a prompt's own words add on top of the adapter. */
        prompt_bias: centroid.promptBias ?? 0,
        /** As in a completion's `chameleon.adapter.hash`. */
        adapter: { hash: await sha256Hex(new TextEncoder().encode(adapterIdentity(manifest, centroid))) },
      })),
    );
    return c.json({ object: "list", manifest: manifestHash, data });
  };
}
