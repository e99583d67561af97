/** GET /v1/models and /v1/models/{id}: the base, `auto`, one model per centroid, and the own adapters the key may see. */
import type { Handler } from "hono";
import type { Manifest } from "../../shared/artifacts/manifest.ts";
import type { Model, ModelList } from "../../shared/contracts/responses.ts";
import { wishOf } from "../assign/assign.ts";
import type { AppEnvironment, Dependencies } from "../dependencies.ts";

export function listModels(dependencies: Dependencies): Handler<AppEnvironment> {
  return async (c) => {
    const { manifest } = await dependencies.artifacts();
    const own = await dependencies.adapters.visibleTo(c.get("access"));
    const mine = own.map(({ name, created }) => ({ ...modelObject(`${manifest.model.servedAs}:${name}`), created }));
    const data = [...modelNames(manifest).map((id) => modelObject(id)), ...mine];
    return c.json({ object: "list", data } satisfies ModelList);
  };
}

export function getModel(dependencies: Dependencies): Handler<AppEnvironment> {
  return async (c) => {
    const artifacts = await dependencies.artifacts();
    const id = c.req.param("id") ?? "";
    const own = await dependencies.adapters.named(c.get("access"), id, undefined, artifacts);
    wishOf(id, undefined, artifacts.manifest, own); // throws model_not_found
    const [adapter] = own.values();
    return c.json({ ...modelObject(id), ...(adapter && { created: adapter.created }) } satisfies Model);
  };
}

function modelNames({ model, centroids }: Manifest): string[] {
  return [model.servedAs, `${model.servedAs}:auto`, ...centroids.map(({ id }) => `${model.servedAs}:${id}`)];
}

/** `created` is required by OpenAI's schema; artifacts carry no date, as equal content must have equal bytes. */
function modelObject(id: string): Model {
  return { id, object: "model", created: 0, owned_by: "chameleon-edge" };
}
