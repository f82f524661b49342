//! Settings: the keys that a section sets for all its routes, and each route may set for itself.

/// Declares the settings of one table three times from one list: as they are meant (`$Settings`, every key has a
/// value), as a section writes them (`$Section`, each key may be missing, and the routes follow), and as a route writes
/// them (`$Route`, each key may be missing, next to the route's own keys).
///
/// serde's `flatten` would do the same but loses the place of every value.
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
        #[derive(Clone, Debug)]
        pub struct $Settings {
            $( $(#[$doc])* pub $key: $Type, )*
            /// Where they stand: the route, or the section when these are the defaults.
            pub place: Place,
            /// Where a key stands that the route does not set for itself.
            inherited: Option<Place>,
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
                Self { $( $key: $default, )* place: Place::default(), inherited: None }
            }
        }

        impl $Settings {
            /// Where a key stands: in the route if it sets it, else in the section, else where it could be set.
            pub fn place_of(&self, key: &str) -> Place {
                let own = self.place.key(key);
                match &self.inherited {
                    Some(section) if !own.is_written() && section.key(key).is_written() => section.key(key),
                    _ => own,
                }
            }
        }

        impl $Settings {
            /// Tells whether a key's value is made up, because it is wrong where it is written.
            pub fn is_made_up(&self, key: &str, wrong: &Wrong) -> bool {
                if wrong.is_empty() {
                    return false; // the usual case, without looking for the place
                }
                let own = self.place.key(key);
                let section = self.inherited.as_ref().map(|section| section.key(key));
                wrong.touches(&own) || (!own.is_written() && section.is_some_and(|key| wrong.touches(&key)))
            }
        }

        impl $Section {
            /// The section's settings, and its routes.
            pub(in crate::config) fn into_parts(self, place: Place) -> ($Settings, Vec<Located<$Route>>) {
                let mut settings = $Settings { place, ..$Settings::default() };
                $( if let Some(value) = self.$key { settings.$key = value.into(); } )*
                (settings, self.route)
            }
        }

        impl $Route {
            /// The defaults with the route's own keys laid over; the route is left without them.
            fn settings(&mut self, defaults: &$Settings, place: &Place) -> $Settings {
                let mut settings = $Settings {
                    place: place.clone(),
                    inherited: Some(defaults.place.clone()),
                    ..defaults.clone()
                };
                $( if let Some(value) = self.$key.take() { settings.$key = value.into(); } )*
                settings
            }
        }
    };
}

pub(in crate::config) use settings;

/// What a handshake or request without an `Origin` header gets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingOrigin {
    /// It is refused.
    #[default]
    Refuse,
    /// It passes: for clients that are no browsers.
    Allow,
}
