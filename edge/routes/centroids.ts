/** GET /v1/centroids: what each centroid stands for and what its adapter was measured to gain. */
import type { Handler } from "hono";
import type { AppEnvironment, Dependencies } from "../dependencies.ts";

export function listCentroids(dependencies: Dependencies): Handler<AppEnvironment> {
  return async (c) => {
    const { manifest, manifestHash } = await dependencies.artifacts();
    const { servedAs } = manifest.model;
    const data = manifest.centroids.map(({ id, hash, label, size, position, scale, gain }) => ({
      id,
      object: "centroid",
      model: `${servedAs}:${id}`,
      hash,
      label,
      size,
      position,
      scale,
      /** Its adapter did not help when measured, so the base is served. */
      auto_off: scale === 0,
      gain,
    }));
    return c.json({ object: "list", manifest: manifestHash, data });
  };
}
