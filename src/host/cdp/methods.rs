//! Which commands may be sent to an allowed page: default deny, domain by domain.
//!
//! The commands that need a look at their parameters, and all of the domain `Target`, are the filter's; here is the rest.

/// What happens to a command of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is sent on as it is.
    Pass,
    /// It is refused, for this reason.
    Refuse(Reason),
}

/// Why a command is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// It is in no list.
    Unknown,
    /// It would show or change what other pages have, unless the page is in a browser context of the client's own.
    Shared,
    /// It reaches files of the host.
    Files,
    /// It concerns the whole browser or the host.
    Browser,
    /// It could run code in the next page that the tab shows.
    NextPage,
}

impl Reason {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Unknown => "it is not among the methods that sandboxes may use",
            Self::Shared => {
                "it would show or change what other pages of the browser have; it works in pages of a browser context that you \
                 make yourself (Target.createBrowserContext, browser.newContext())"
            }
            Self::Files => "it reaches files of the host",
            Self::Browser => "it concerns the whole browser or the host, not the pages that the sandbox may use",
            Self::NextPage => "it could run code in the page that the tab shows next",
        }
    }
}

/// Allowed in every page that may be seen.
const PAGE: &[(&str, &[&str])] = &[
    (
        "Accessibility",
        &[
            "disable",
            "enable",
            "getAXNodeAndAncestors",
            "getChildAXNodes",
            "getFullAXTree",
            "getPartialAXTree",
            "getRootAXNode",
            "queryAXTree",
        ],
    ),
    (
        "Animation",
        &[
            "disable",
            "enable",
            "getCurrentTime",
            "getPlaybackRate",
            "releaseAnimations",
            "seekAnimations",
            "setPaused",
            "setPlaybackRate",
        ],
    ),
    (
        "CSS",
        &[
            "addRule",
            "collectClassNames",
            "createStyleSheet",
            "disable",
            "enable",
            "forcePseudoState",
            "getBackgroundColors",
            "getComputedStyleForNode",
            "getInlineStylesForNode",
            "getLayersForNode",
            "getMatchedStylesForNode",
            "getMediaQueries",
            "getPlatformFontsForNode",
            "getStyleSheetText",
            "setEffectivePropertyValueForNode",
            "setLocalFontsEnabled",
            "setRuleSelector",
            "setStyleTexts",
            "startRuleUsageTracking",
            "stopRuleUsageTracking",
            "takeComputedStyleUpdates",
            "takeCoverageDelta",
            "trackComputedStyleUpdates",
        ],
    ),
    ("Console", &["clearMessages", "disable", "enable"]),
    (
        "DOM",
        &[
            "collectClassNamesFromSubtree",
            "describeNode",
            "disable",
            "discardSearchResults",
            "enable",
            "focus",
            "getAttributes",
            "getBoxModel",
            "getContainerForNode",
            "getContentQuads",
            "getDocument",
            "getFlattenedDocument",
            "getFrameOwner",
            "getNodeForLocation",
            "getNodeStackTraces",
            "getNodesForSubtreeByStyle",
            "getOuterHTML",
            "getRelayoutBoundary",
            "getSearchResults",
            "getTopLayerElements",
            "performSearch",
            "pushNodeByPathToFrontend",
            "pushNodesByBackendIdsToFrontend",
            "querySelector",
            "querySelectorAll",
            "removeAttribute",
            "removeNode",
            "requestChildNodes",
            "requestNode",
            "resolveNode",
            "scrollIntoViewIfNeeded",
            "setInspectedNode",
            "setNodeStackTracesEnabled",
        ],
    ),
    ("DOMDebugger", &["getEventListeners"]),
    ("DOMSnapshot", &["captureSnapshot", "disable", "enable", "getSnapshot"]),
    (
        "Debugger",
        &[
            "disable",
            "enable",
            "getScriptSource",
            "resume",
            "setAsyncCallStackDepth",
            "setBlackboxPatterns",
            "setSkipAllPauses",
        ],
    ),
    (
        "Emulation",
        &[
            "canEmulate",
            "clearDeviceMetricsOverride",
            "clearGeolocationOverride",
            "clearIdleOverride",
            "resetPageScaleFactor",
            "setAutoDarkModeOverride",
            "setAutomationOverride",
            "setCPUThrottlingRate",
            "setDefaultBackgroundColorOverride",
            "setDeviceMetricsOverride",
            "setDocumentCookieDisabled",
            "setEmitTouchEventsForMouse",
            "setEmulatedMedia",
            "setEmulatedVisionDeficiency",
            "setFocusEmulationEnabled",
            "setGeolocationOverride",
            "setHardwareConcurrencyOverride",
            "setIdleOverride",
            "setLocaleOverride",
            "setPageScaleFactor",
            "setScriptExecutionDisabled",
            "setScrollbarsHidden",
            "setTimezoneOverride",
            "setTouchEmulationEnabled",
            "setUserAgentOverride",
            "setVisibleSize",
        ],
    ),
    (
        "Input",
        &[
            "cancelDragging",
            "dispatchKeyEvent",
            "dispatchMouseEvent",
            "dispatchTouchEvent",
            "emulateTouchFromMouseEvent",
            "imeSetComposition",
            "insertText",
            "setIgnoreInputEvents",
            "setInterceptDrags",
            "synthesizePinchGesture",
            "synthesizeScrollGesture",
            "synthesizeTapGesture",
        ],
    ),
    ("Inspector", &["disable", "enable"]),
    ("Log", &["clear", "disable", "enable", "startViolationsReport", "stopViolationsReport"]),
    (
        "Network",
        &[
            "canClearBrowserCache",
            "canClearBrowserCookies",
            "canEmulateNetworkConditions",
            "disable",
            "emulateNetworkConditions",
            "enable",
            "getRequestPostData",
            "setBlockedURLs",
            "setBypassServiceWorker",
            "setCacheDisabled",
            "setUserAgentOverride",
        ],
    ),
    (
        "Overlay",
        &[
            "disable",
            "enable",
            "hideHighlight",
            "highlightFrame",
            "highlightNode",
            "highlightQuad",
            "highlightRect",
            "setShowViewportSizeOnResize",
        ],
    ),
    (
        "Page",
        &[
            "bringToFront",
            "captureScreenshot",
            "disable",
            "enable",
            "getLayoutMetrics",
            "handleJavaScriptDialog",
            "navigateToHistoryEntry",
            "printToPDF",
            "removeScriptToEvaluateOnNewDocument",
            "resetNavigationHistory",
            "screencastFrameAck",
            "setBypassCSP",
            "setInterceptFileChooserDialog",
            "setFontFamilies",
            "setFontSizes",
            "setLifecycleEventsEnabled",
            "setPrerenderingAllowed",
            "setWebLifecycleState",
            "startScreencast",
            "stopLoading",
            "stopScreencast",
            "waitForDebugger",
        ],
    ),
    ("Performance", &["disable", "enable", "getMetrics", "setTimeDomain"]),
    ("PerformanceTimeline", &["enable"]),
    (
        "Runtime",
        &[
            "addBinding",
            "awaitPromise",
            "discardConsoleEntries",
            "getExceptionDetails",
            "getHeapUsage",
            "getIsolateId",
            "getProperties",
            "releaseObject",
            "releaseObjectGroup",
            "removeBinding",
            "runIfWaitingForDebugger",
            "setAsyncCallStackDepth",
            "setCustomObjectFormatterEnabled",
            "setMaxCallStackSizeToCapture",
            "terminateExecution",
        ],
    ),
    ("Schema", &["getDomains"]),
    ("Security", &["disable", "enable"]),
];

/// Allowed besides in pages of a browser context that the client made itself: it has cookies and storage of its own.
const OWN_CONTEXT: &[(&str, &[&str])] = &[
    ("DOMStorage", &["clear", "disable", "enable", "getDOMStorageItems", "removeDOMStorageItem", "setDOMStorageItem"]),
    (
        "Network",
        &[
            "clearBrowserCookies",
            "deleteCookies",
            "getAllCookies",
            "getCookies",
            "setCookie",
            "setCookies",
            "setExtraHTTPHeaders",
        ],
    ),
    ("Security", &["setIgnoreCertificateErrors"]),
    (
        "WebAuthn",
        &[
            "addCredential",
            "addVirtualAuthenticator",
            "clearCredentials",
            "disable",
            "enable",
            "getCredential",
            "getCredentials",
            "removeCredential",
            "removeVirtualAuthenticator",
            "setAutomaticPresenceSimulation",
            "setUserVerified",
        ],
    ),
];

/// Refused everywhere, with a better reason than that they are unknown.
const REFUSED: &[(&str, Reason, &[&str])] = &[
    ("DOM", Reason::Files, &["getFileInfo", "setFileInputFiles"]),
    ("Page", Reason::Files, &["handleFileChooser", "setDownloadBehavior"]),
    ("Page", Reason::NextPage, &["addScriptToEvaluateOnLoad", "setDocumentContent"]),
    (
        "Page",
        Reason::Shared,
        &[
            "captureSnapshot",
            "getCookies",
            "getResourceContent",
            "getResourceTree",
            "searchInResource",
            "setAdBlockingEnabled",
        ],
    ),
    // Node ids are small numbers: in the moment of a navigation they would be those of the next page.
    (
        "DOM",
        Reason::NextPage,
        &[
            "copyTo",
            "moveTo",
            "redo",
            "setAttributeValue",
            "setAttributesAsText",
            "setNodeName",
            "setNodeValue",
            "setOuterHTML",
            "undo",
        ],
    ),
    ("Runtime", Reason::NextPage, &["compileScript", "globalLexicalScopeNames", "queryObjects", "runScript"]),
    (
        "Network",
        Reason::Shared,
        &["clearBrowserCache", "loadNetworkResource", "replayXHR", "setRequestInterception", "setAttachDebugStack"],
    ),
];

/// Domains of which nothing passes, with a better reason than that they are unknown.
const REFUSED_DOMAINS: &[(&str, Reason)] = &[
    ("BackgroundService", Reason::Shared),
    ("Browser", Reason::Browser),
    ("BluetoothEmulation", Reason::Browser),
    ("CacheStorage", Reason::Shared),
    ("Cast", Reason::Browser),
    ("Debugger", Reason::NextPage),
    ("DeviceAccess", Reason::Browser),
    ("Extensions", Reason::Browser),
    ("FileSystem", Reason::Files),
    ("HeapProfiler", Reason::Shared),
    ("IO", Reason::Files),
    ("IndexedDB", Reason::Shared),
    ("Memory", Reason::Shared),
    ("PWA", Reason::Browser),
    ("Profiler", Reason::Shared),
    ("ServiceWorker", Reason::Shared),
    ("Storage", Reason::Shared),
    ("SystemInfo", Reason::Browser),
    ("Tethering", Reason::Browser),
    ("Tracing", Reason::Browser),
];

/// What happens to `method` in a page; `own` says that it is in a browser context of the client's own.
pub(super) fn verdict(method: &str, own: bool) -> Verdict {
    let Some((domain, name)) = method.split_once('.') else { return Verdict::Refuse(Reason::Unknown) };
    let listed = |table: &[(&str, &[&str])]| table.iter().any(|(of, names)| *of == domain && names.contains(&name));
    if listed(PAGE) || own && listed(OWN_CONTEXT) {
        return Verdict::Pass;
    }
    if listed(OWN_CONTEXT) {
        return Verdict::Refuse(Reason::Shared);
    }
    let refused =
        REFUSED.iter().find(|(of, _, names)| *of == domain && names.contains(&name)).map(|&(_, reason, _)| reason);
    let by_domain = || REFUSED_DOMAINS.iter().find(|(of, _)| *of == domain).map(|&(_, reason)| reason);
    Verdict::Refuse(refused.or_else(by_domain).unwrap_or(Reason::Unknown))
}

/// Whether events of this domain may come to a client: those of which some command is allowed.
pub(super) fn may_emit(event: &str) -> bool {
    let Some((domain, _)) = event.split_once('.') else { return false };
    domain == "Fetch" || PAGE.iter().chain(OWN_CONTEXT).any(|(of, _)| *of == domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_is_refused() {
        for method in ["Page.captureScreenshot", "Runtime.getProperties", "DOM.getDocument", "Input.dispatchMouseEvent"]
        {
            assert_eq!(verdict(method, false), Verdict::Pass, "{method}");
        }
        for (method, reason) in [
            ("DOM.setFileInputFiles", Reason::Files),
            ("Page.setDownloadBehavior", Reason::Files),
            ("Page.setDocumentContent", Reason::NextPage),
            ("Debugger.setBreakpointByUrl", Reason::NextPage),
            ("Storage.getCookies", Reason::Shared),
            ("Storage.getStorageKey", Reason::Shared),
            ("HeapProfiler.takeHeapSnapshot", Reason::Shared),
            ("Network.loadNetworkResource", Reason::Shared),
            ("Browser.close", Reason::Browser),
            ("SystemInfo.getInfo", Reason::Browser),
            ("Extensions.loadUnpacked", Reason::Browser),
            ("Tethering.bind", Reason::Browser),
            ("Page", Reason::Unknown),
            ("page.captureScreenshot", Reason::Unknown),
            ("Page.captureScreenshot ", Reason::Unknown),
            ("Nothing.known", Reason::Unknown),
            ("", Reason::Unknown),
        ] {
            assert_eq!(verdict(method, false), Verdict::Refuse(reason), "{method}");
            assert_eq!(verdict(method, true), Verdict::Refuse(reason), "{method}");
        }
        for method in ["Network.getAllCookies", "Network.setCookie", "DOMStorage.getDOMStorageItems"] {
            assert_eq!(verdict(method, false), Verdict::Refuse(Reason::Shared), "{method}");
            assert_eq!(verdict(method, true), Verdict::Pass, "{method}");
        }
        assert!(may_emit("Network.responseReceived") && !may_emit("Tracing.dataCollected") && !may_emit("Storage.x"));
    }
}
