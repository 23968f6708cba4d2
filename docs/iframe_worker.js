// Search in pages that are opened as files: browsers start no worker there, so its script runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inner = this.frame.contentWindow;
      inner.document.open();
      inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      inner.importScripts = (...urls) => urls.reduce((before, each) => before.then(() => new Promise((resolve, reject) => {
        const script = inner.document.createElement("script");
        Object.assign(script, { src: each, onload: resolve, onerror: reject });
        inner.document.body.append(script);
      })), Promise.resolve());
      this.ready = new Promise((resolve) => { inner.started = resolve; });
      inner.document.write(`<body><script src="${url}" onload="started()"><\/script></body>`);
      inner.document.close();
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() { this.frame.remove(); }
  };
}
