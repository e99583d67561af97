/** GET /v1/models: the base, `auto`, `static`, centroids, aliases and visible own adapters. GET /v1/centroids. */
import { adapterIdentity, hasMemory, isAutoOff, type Manifest, staticId } from "../../shared/artifacts/manifest.ts";
import { sha256Hex } from "../../shared/bytes.ts";
import type { ModelDeleted } from "../../shared/contracts/fine-tuning.ts";
import type { CentroidList, Model, ModelList } from "../../shared/contracts/responses.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { Artifacts } from "../artifacts/artifacts.ts";
import { selectionOf } from "../plan/assign.ts";
import { modelOf } from "../tenants/keys.ts";
import { type OwnAdapter, ownNameOf, suffixOf } from "../tenants/own-adapters.ts";
import { answerList } from "./answer.ts";
import type { RouteHandler } from "./dependencies.ts";

export const listModels: RouteHandler = async (c, dependencies) => {
  const artifacts = await dependencies.artifacts();
  const access = c.get("access");
  const own = await dependencies.adapters.visibleTo(access);
  const models = [
    ...modelNames(artifacts.manifest).map((id) => modelObject(id, artifacts)),
    ...own.map((one) => modelObject(`${artifacts.manifest.model.servedAs}:${one.name}`, artifacts, one)),
  ];
  const byId = new Map(models.map((one) => [one.id, one]));
  const aliases = Object.entries(access.aliases ?? {}).flatMap(([id, model]) => {
    const known = byId.get(model);
    return known ? [{ ...known, id, alias_of: model }] : [];
  });
  return answerList<ModelList>(c, dependencies, [...models, ...aliases], { others: {} });
};

export const getModel: RouteHandler = async (c, dependencies) => {
  const artifacts = await dependencies.artifacts();
  const { manifest } = artifacts;
  const id = c.req.param("id") ?? "";
  const model = modelOf(c.get("access"), id);
  const own = await dependencies.adapters.named(c.get("access"), model, null, manifest);
  selectionOf(model, null, manifest, own); // throws model_not_found
  const [adapter] = own.values();
  const alias = model === id ? {} : { alias_of: model };
  return c.json({ ...modelObject(id, artifacts, adapter), ...alias } satisfies Model);
};

export const deleteModel: RouteHandler = async (c, dependencies) => {
  const { manifest } = await dependencies.artifacts();
  const { tenant, scopes, aliases = {} } = c.get("access");
  const id = c.req.param("id") ?? "";
  if (!scopes.includes("adapters")) {
    const message = `Deleting a model needs a key with the scope adapters; this one has ${scopes.join(", ") || "none"}.`;
    throw new ServiceError("forbidden", message);
  }
  if (Object.hasOwn(aliases, id)) {
    const message = `${id} is an alias of ${aliases[id]}; \`chameleon keys limits\` changes aliases.`;
    throw new ServiceError("forbidden", message);
  }
  const name = ownNameOf(suffixOf(id, manifest), manifest);
  if (name === null || (await dependencies.adapters.of(tenant).remove(name)) === null) {
    selectionOf(id, null, manifest); // throws model_not_found
    throw new ServiceError("forbidden", `${id} is not a model of your own, so you cannot delete it.`);
  }
  return c.json({ id, object: "model", deleted: true } satisfies ModelDeleted);
};

export const listCentroids: RouteHandler = async (c, dependencies) => {
  const { manifest, manifestHash } = await dependencies.artifacts();
  const data = await Promise.all(
    manifest.centroids.map(async (centroid) => ({
      id: centroid.id,
      object: "centroid" as const,
      model: `${manifest.model.servedAs}:${centroid.id}`,
      label: centroid.label,
      size: centroid.size,
      position: centroid.position,
      gain: centroid.gain,
      scale: centroid.scale,
      auto_off: isAutoOff(centroid),
      memory: hasMemory(centroid) ? centroid.memory! : null,
      adapter: { hash: await sha256Hex(new TextEncoder().encode(adapterIdentity(manifest, centroid.hash))) },
    })),
  );
  return answerList<CentroidList>(c, dependencies, data, { others: { manifest: manifestHash } });
};

function modelNames({ model, centroids, static: fixed }: Manifest): string[] {
  const adapters = ["auto", ...(fixed ? [staticId] : []), ...centroids.map(({ id }) => id)];
  return [model.servedAs, ...adapters.map((id) => `${model.servedAs}:${id}`)];
}

/** OpenAI's schema requires `created`. Models of the artifacts have no date, so theirs is 0. */
function modelObject(id: string, { manifest, manifestHash }: Artifacts, own?: OwnAdapter): Model {
  const { servedAs, contextTokens } = manifest.model;
  return {
    ...{ id, object: "model", created: own?.created ?? 0, owned_by: "chameleon-edge" },
    ...{ base: servedAs, context_length: contextTokens, manifest: own?.manifestHash ?? manifestHash },
  };
}
