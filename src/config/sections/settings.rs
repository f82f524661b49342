//! Settings: the keys that a section sets for all its routes and that each route may override.

/// Declares the settings of one table three times from one list: resolved (`$Settings`, every key
/// has a value), as a section writes them (`$Section`, each key optional, followed by the routes),
/// and as a route writes them (`$Route`, each key optional, beside the route's own keys).
///
/// serde's `flatten` would do the same but loses the location of each value.
macro_rules! settings {
    (
        $(#[$settings_doc:meta])*
        pub struct $Settings:ident {
            $( $(#[$doc:meta])* $key:ident: $Type:ty as $Raw:ty = $default:expr, )*
        }
        $(#[$section_doc:meta])*
        section $Section:ident;
        $(#[$route_doc:meta])*
        route $Route:ident {
            $( $own:ident: $Own:ty, )*
        }
    ) => {
        $(#[$settings_doc])*
        #[derive(Clone, Debug, Eq, Hash, PartialEq)]
        pub struct $Settings {
            $( $(#[$doc])* pub $key: $Type, )*
            /// The location of the route, or of the section for its defaults.
            pub location: NotCompared<SourceLocation>,
            /// The location of keys that the route does not override.
            inherited: NotCompared<Option<SourceLocation>>,
        }

        $(#[$section_doc])*
        #[derive(Debug, Default, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(in crate::config) struct $Section {
            $( $key: Option<$Raw>, )*
            pub(in crate::config) route: Vec<Located<$Route>>,
        }

        $(#[$route_doc])*
        #[derive(Debug, Default, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(in crate::config) struct $Route {
            $( $own: $Own, )*
            $( $key: Option<$Raw>, )*
        }

        impl Default for $Settings {
            fn default() -> Self {
                Self { $( $key: $default, )* location: NotCompared::default(), inherited: NotCompared(None) }
            }
        }

        impl $Settings {
            /// Returns a key's location: in the route if it is set there, else in the section, else
            /// where it could be set.
            pub fn location_of(&self, key: &str) -> SourceLocation {
                let own = self.location.key(key);
                match &*self.inherited {
                    Some(section) if !own.is_written() && section.key(key).is_written() => section.key(key),
                    _ => own,
                }
            }
        }

        impl $Settings {
            /// Returns whether a key's value is a placeholder, because the written one is wrong.
            pub fn is_invalid(&self, key: &str, error_locations: &ErrorLocations) -> bool {
                if error_locations.is_empty() {
                    return false; // the usual case, without computing the location
                }
                let own = self.location.key(key);
                let section = self.inherited.as_ref().map(|section| section.key(key));
                error_locations.overlaps(&own) || (!own.is_written() && section.is_some_and(|key| error_locations.overlaps(&key)))
            }
        }

        impl $Section {
            /// The section's settings, and its routes.
            pub(in crate::config) fn into_parts(self, location: SourceLocation) -> ($Settings, Vec<Located<$Route>>) {
                let mut settings = $Settings { location: location.into(), ..$Settings::default() };
                $( if let Some(value) = self.$key { settings.$key = value.into(); } )*
                (settings, self.route)
            }
        }

        impl $Route {
            /// Returns the defaults with the route's overrides, which are taken out of the route.
            fn settings(&mut self, defaults: &$Settings, location: &SourceLocation) -> $Settings {
                let mut settings = $Settings {
                    location: location.clone().into(),
                    inherited: NotCompared(Some(defaults.location.0.clone())),
                    ..defaults.clone()
                };
                $( if let Some(value) = self.$key.take() { settings.$key = value.into(); } )*
                settings
            }
        }
    };
}

pub(in crate::config) use settings;

/// How a handshake or request without an `Origin` header is treated.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingOrigin {
    /// Refused.
    #[default]
    Refuse,
    /// Admitted: for clients that are not browsers.
    Allow,
}
