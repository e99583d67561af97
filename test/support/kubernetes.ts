/** Renders Kubernetes objects with Kustomize and validates them by their schemas. */
import { execFileSync, spawnSync } from "node:child_process";
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import { PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";
import { ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";
import { StatefulSet } from "kubernetes-models/apps/v1/StatefulSet";
import { NetworkPolicy } from "kubernetes-models/networking.k8s.io/v1/NetworkPolicy";
import { PodDisruptionBudget } from "kubernetes-models/policy/v1/PodDisruptionBudget";
import { Namespace } from "kubernetes-models/v1/Namespace";
import { Service } from "kubernetes-models/v1/Service";
import { type Document, parseAllDocuments } from "yaml";

const schemas = [
  Namespace,
  StatefulSet,
  Service,
  PodDisruptionBudget,
  NetworkPolicy,
  ScaledObject,
  ServiceMonitor,
  PrometheusRule,
];

/** Debian's package `kustomize`. Tests that need it are skipped otherwise. */
export const hasKustomize = spawnSync("kustomize", ["version"]).status === 0;

/** Untyped, because each kind has its own fields. */
export type KubernetesObject = ReturnType<Document["toJS"]>;

export function render(folder: string): KubernetesObject[] {
  const text = execFileSync("kustomize", ["build", folder], { encoding: "utf8" });
  return parseAllDocuments(text).map((document) => document.toJS());
}

/** Throws an Error that names each missing, unknown or invalid field. */
export function validateObject(object: KubernetesObject): void {
  const schema = schemas.find(({ apiVersion, kind }) => apiVersion === object.apiVersion && kind === object.kind);
  if (!schema) throw new Error(`there is no schema of ${object.apiVersion} ${object.kind}`);
  const unread = new Set<string>();
  schema.prototype.validate.call(watched(object, object.kind, unread));
  // The schemas allow unknown fields, as the API server does. A field that no schema reads is a misspelling.
  if (unread.size > 0) throw new Error(`unknown: ${[...unread].join(", ")}`);
}

/** A copy of `value` that removes each field that is read from `unread`. */
function watched<Value>(value: Value, path: string, unread: Set<string>): Value {
  if (Array.isArray(value)) return value.map((item, i) => watched(item, `${path}.${i}`, unread)) as Value;
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).map(([key, field]) => [key, watched(field, `${path}.${key}`, unread)]);
  for (const [key] of entries) unread.add(`${path}.${key}`);
  return new Proxy(Object.fromEntries(entries), {
    get(target, key) {
      unread.delete(`${path}.${String(key)}`);
      return target[key];
    },
  });
}
