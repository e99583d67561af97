/** Sets an entry of a bounded map as the newest one, and deletes the oldest beyond `maxEntries`. */
export function setNewest<Key, Value>(map: Map<Key, Value>, key: Key, value: Value, maxEntries: number): void {
  map.delete(key);
  map.set(key, value);
  if (map.size > maxEntries) map.delete(map.keys().next().value!);
}
