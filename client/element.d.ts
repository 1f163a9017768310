import type { Gap, LiveClient, LiveError, Message } from "./live.js";

/**
 * `<live-topic topic="news">` shows what is published to a topic. This module defines the element when it is imported.
 *
 *     <live-topic topic="news" last="20" limit="100"></live-topic>
 *
 * Each message is shown as text: a string as it is, anything else as JSON. With the attribute `html` it is HTML.
 * **HTML must come from the server.** If clients may publish to the topic, one of them can put HTML into the pages of all
 * the others. So use `html` only for a topic to which `OnPublish` lets no client publish. The element removes scripts, frames,
 * plugins, event attributes and `javascript:` addresses. Attributes that a library evaluates, such as `hx-on`, stay.
 *
 * | attribute | meaning |
 * |---|---|
 * | `topic` | The topic. Another one empties the element and begins anew. |
 * | `html` | Messages are HTML: a string, or an object with the string `html`. Default: they are text. |
 * | `swap` | `append` (the default), `prepend`, or `replace`, which replaces all content. |
 * | `target` | A CSS selector of the element that gets the content, such as a `tbody`. Default: this element. |
 * | `limit` | The largest number of child elements. The oldest are removed. 0, the default: no limit. |
 * | `last` | The number of newest messages to begin with, up to 1000. Default: 0. |
 * | `since` | The position of the content that the server has rendered. Later messages follow. If it is not a position, the element begins with a gap. |
 * | `keyed` | The topic is keyed, and each child shows one key, which its attribute `data-key` names. The server sets `data-key` on the children that it renders, and the element on the others. A message replaces the child of its key. If a key is removed, so is its child. `since` has no effect, because all keys come. |
 * | `src` | The address of the live server. Default `/live`. Elements with the same address share a connection. |
 * | `state` | Set by the element: the client's `state`, or `failed` if the server refuses the topic. |
 *
 * A wrong value is reported by `reportError`, once, and the default counts instead. While the page has no element that `target`
 * finds, messages are not shown; that too is reported once. `html`, `swap`, `target` and `limit` may be changed at any time, for
 * the next messages. `last`, `since` and `keyed` count when the element begins.
 *
 * With `append` and `prepend`, an element takes the place of a child that has the same `id`.
 *
 * The content is a live region for screen readers: it gets `aria-live="polite"`, unless it has a `role` or an `aria-live`. If the
 * page has htmx, the new elements are given to `htmx.process`.
 *
 * Events, which bubble: `live-message` before a message is shown (`preventDefault` keeps it from being shown), `live-swap`
 * after, `live-gap` for a gap, and `live-error` if the server refuses the subscription, at first or after a reconnect, or the
 * messages before it, and if `src` is no address. If a message cannot be shown, for example because its data is not HTML, `reportError` gets the error.
 */
export declare class LiveTopic extends HTMLElement {
  /**
   * The client of all elements that have none of their own. Default null: elements with the same address share a client,
   * which they open and close.
   */
  static get client(): LiveClient<any> | null;
  static set client(live: LiveClient<any> | null | undefined);

  /** The client of this element. The attribute `src` is not used then. */
  get client(): LiveClient<any> | null;
  set client(live: LiveClient<any> | null | undefined);
}

declare global {
  interface HTMLElementTagNameMap {
    "live-topic": LiveTopic;
  }
  interface GlobalEventHandlersEventMap {
    "live-message": CustomEvent<Message>;
    "live-swap": CustomEvent<Message>;
    "live-gap": CustomEvent<Gap>;
    "live-error": CustomEvent<LiveError | TypeError>;
  }
}
